//! HTTP/2 of a local client of the Workload API, whose `:authority` is made one that `h2` takes:
//! arbitrary bytes never panic, come out the same however they are cut, and grow by half
//! at most (an empty authority, two octets, becomes one of one character).
#![no_main]

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use adit::rpc::AnyAuthority;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client whose bytes come in these parts, and then no more.
struct Parts<'a>(VecDeque<&'a [u8]>);

impl AsyncRead for Parts<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(part) = self.0.pop_front() {
            if part.is_empty() {
                continue;
            }
            let (now, later) = part.split_at(part.len().min(buf.remaining()));
            buf.put_slice(now);
            if !later.is_empty() {
                self.0.push_front(later);
            }
            break;
        }
        Poll::Ready(Ok(()))
    }
}

fn seen_by_h2(parts: VecDeque<&[u8]>) -> Vec<u8> {
    let mut end = AnyAuthority::new(Parts(parts));
    let (mut out, mut room) = (Vec::new(), [0; 4096]);
    loop {
        let mut buf = ReadBuf::new(&mut room);
        let read = Pin::new(&mut end).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
        match read {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => out.extend_from_slice(buf.filled()),
            Poll::Ready(Ok(())) => return out,
            Poll::Ready(Err(_)) => return out,
            Poll::Pending => panic!("waits although all has come"),
        }
    }
}

fuzz_target!(|parts: Vec<&[u8]>| {
    let cut: VecDeque<&[u8]> = [PREFACE].into_iter().chain(parts.iter().copied()).collect();
    let whole = [PREFACE, &parts.concat()].concat();
    let out = seen_by_h2(cut);
    assert_eq!(out, seen_by_h2([&whole[..]].into()));
    assert!(out.len() <= whole.len() + whole.len() / 2, "{} from {}", out.len(), whole.len());
});
