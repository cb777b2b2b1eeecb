//! A plain TCP socket as the far side: passthrough, and plaintext that policy let in.
//!
//! Userspace copies through the worker's buffer; a socket that is full costs one copy of what
//! it did not take. Splice, measured 2026-11-24 on 2 cores against these copies (`cargo bench
//! --bench relay`; figures in `benches/results/2026-11-24-data-path`): with 1 MiB pipes 31–55 %
//! less CPU of the worker, but on loopback with one stream 19 % less throughput and 16 % more
//! CPU in all; elsewhere throughput +3…+18 %, CPU in all −11…−31 %. With 64 KiB pipes −21 %
//! to +12 %. Not taken up while one case loses; it would be for streams that fill the buffer.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::net::TcpStream;

use super::{App, Broken, Remote, with_scratch};
use crate::{lifecycle::behind_others, observe::conn::Meter, sys::sockmap::must_wait};

/// How much is read at once.
const READ: usize = 128 * 1024;
/// How many reads in a row before others get their turn.
const TURNS: usize = 8;

/// The far socket, and what either side could not take yet.
pub struct TcpRemote {
    far: App,
    up: Vec<u8>,
    down: Vec<u8>,
}

impl TcpRemote {
    /// Takes a connected socket.
    #[must_use]
    pub fn new(socket: TcpStream) -> Self {
        Self { far: App::new(socket), up: Vec::new(), down: Vec::new() }
    }

    /// This remote with `said`, the first bytes of the application, still to be sent.
    #[must_use]
    pub fn holding(self, said: Vec<u8>) -> Self {
        Self { up: said, ..self }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        self.far.socket()
    }
}

impl Remote for TcpRemote {
    fn poll_up(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        meter: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>> {
        let Self { far, up, .. } = self;
        ready!(poll_copy(cx, (app, Broken::App), (far, Broken::Remote), up, &meter.up))?;
        Poll::Ready(far.finish().map_err(Broken::Remote))
    }

    fn poll_down(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        meter: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>> {
        let Self { far, down, .. } = self;
        poll_copy(cx, (far, Broken::Remote), (app, Broken::App), down, &meter.down)
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.far.poll_reset(cx)
    }

    fn abort(&mut self) {
        self.far.abort();
    }

    fn unsent(&self) -> usize {
        self.far.unsent()
    }
}

type Side<A> = (A, fn(io::Error) -> Broken);

/// One direction, until `from` has ended and `to` has everything.
fn poll_copy(
    cx: &mut Context<'_>,
    (from, from_failed): Side<&mut App>,
    (to, to_failed): Side<&mut App>,
    held: &mut Vec<u8>,
    count: &AtomicU64,
) -> Poll<Result<(), Broken>> {
    for _ in 0..TURNS {
        while !held.is_empty() {
            let n = ready!(to.poll_write(cx, held)).map_err(to_failed)?;
            held.drain(..n);
            count.fetch_add(n as u64, Relaxed);
        }
        *held = Vec::new();
        ready!(from.socket().poll_read_ready(cx)).map_err(from_failed)?;
        let ended = with_scratch(|buffer| {
            let buffer = &mut buffer[..READ];
            let n = match from.socket().try_read(buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(from_failed(e)),
            };
            if n == 0 {
                return Ok(true);
            }
            if n < READ {
                from.drained();
            }
            let taken = match to.socket().try_write(&buffer[..n]) {
                Ok(taken) => taken,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock || must_wait(to.socket(), &e) => 0,
                Err(e) => return Err(to_failed(e)),
            };
            count.fetch_add(taken as u64, Relaxed);
            held.extend_from_slice(&buffer[taken..n]);
            Ok(false)
        })?;
        if ended {
            return Poll::Ready(Ok(()));
        }
    }
    behind_others(cx);
    Poll::Pending
}
