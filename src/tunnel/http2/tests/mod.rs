//! The machine against the rules of RFC 9113, against floods, and against itself.

mod floods;
mod pair;
mod rules;

use std::time::Instant;

use super::{
    frame::{HEADER, Head, flag, kind, put},
    *,
};

/// Frames as a peer would write them.
#[derive(Default)]
struct Wire(Vec<u8>);

impl Wire {
    fn from_client() -> Self {
        Self(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()).frame(kind::SETTINGS, 0, 0, &[])
    }

    fn from_server() -> Self {
        Self::default().frame(kind::SETTINGS, 0, 0, &[])
    }

    fn frame(mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        put(&mut self.0, kind, flags, stream, payload);
        self
    }

    fn headers(self, stream: u32, flags: u8, fields: &[(&str, &str)]) -> Self {
        let mut block = Vec::new();
        fields.iter().for_each(|(name, value)| hpack::encode(&mut block, name, value));
        self.frame(kind::HEADERS, flags | flag::END_HEADERS, stream, &block)
    }

    fn connect(self, stream: u32) -> Self {
        self.headers(stream, 0, &[(":method", "CONNECT"), (":authority", "10.0.0.1:80")])
    }
}

fn server() -> Http2 {
    Http2::new(Role::Server, Limits::default(), Instant::now())
}

/// A client that has opened stream 1.
fn client() -> Http2 {
    let mut client = Http2::new(Role::Client, Limits::default(), Instant::now());
    assert_eq!(client.open("10.0.0.1:80", &[]), Some(1));
    client
}

/// Feeds bytes in parts of `at_once`; DATA is told with its bytes' number instead of its place.
fn feed(end: &mut Http2, wire: &[u8], at_once: usize) -> Result<Vec<Event>, Failure> {
    let mut events = Vec::new();
    for mut part in wire.chunks(at_once) {
        while !part.is_empty() {
            let (used, event) = end.receive(part, Instant::now())?;
            events.extend(event);
            part = &part[used..];
        }
    }
    Ok(events)
}

/// The frames in what an end wants to send.
fn frames(control: &[u8]) -> Vec<(Head, Vec<u8>)> {
    let mut rest = control.strip_prefix(reader::PREFACE.as_slice()).unwrap_or(control);
    let mut frames = Vec::new();
    while let Some(head) = rest.first_chunk::<HEADER>() {
        let head = Head::read(head);
        frames.push((head, rest[HEADER..HEADER + head.length].to_vec()));
        rest = &rest[HEADER + head.length..];
    }
    assert!(rest.is_empty());
    frames
}
