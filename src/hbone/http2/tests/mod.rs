//! Frames made by hand, and what one end makes of them. `rules` has what RFC 9113 forbids,
//! `floods` what §10.5 warns of, `pair` two ends against each other.
#![allow(clippy::unwrap_used)]

mod cases;
mod floods;
mod pair;
mod rules;

use std::time::Instant;

use super::{
    frame::{HEADER, flag, kind, put},
    reader::PREFACE,
    *,
};

/// A whole frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, kind, flags, stream, payload);
    out
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    fields.iter().for_each(|(name, value)| hpack::encode(&mut block, name, value));
    block
}

/// HEADERS in one frame.
fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, &block(fields))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn rst(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &Code::CANCEL.0.to_be_bytes())
}

fn go_away(last: u32) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())
}

fn data(flags: u8, stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

const CONNECT: &[(&str, &str)] = &[(":method", "CONNECT"), (":authority", "10.0.0.1:80")];
const OK: &[(&str, &str)] = &[(":status", "200")];

fn connect(stream: u32) -> Vec<u8> {
    headers(0, stream, CONNECT)
}

/// What a peer says first.
fn greeting(to: Role) -> Vec<u8> {
    let preface = if to == Role::Server { PREFACE.as_slice() } else { &[] };
    [preface, &frame(kind::SETTINGS, 0, 0, &[])].concat()
}

/// One end, greeted, with nothing to say.
fn greeted(role: Role, limits: Limits) -> Http2 {
    let mut end = Http2::new(role, limits, Instant::now());
    assert_eq!(tell(&mut end, &greeting(role)).unwrap(), [Event::Settings]);
    end.take_control();
    end
}

/// Gives an end all of `input`: the events.
fn tell(end: &mut Http2, input: &[u8]) -> Result<Vec<Event>, Failure> {
    tell_at(end, input, Instant::now())
}

fn tell_at(end: &mut Http2, input: &[u8], now: Instant) -> Result<Vec<Event>, Failure> {
    let (mut used, mut events) = (0, Vec::new());
    while used < input.len() {
        let (n, event) = end.receive(&input[used..], now)?;
        assert!(n > 0 || event.is_some(), "no progress");
        used += n;
        events.extend(event);
    }
    Ok(events)
}

/// The frames of some output: type, flags, stream, payload.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() {
        let head = frame::Head::read(head);
        let (payload, rest) = rest.split_at(head.length);
        found.push((head.kind, head.flags, head.stream, payload.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a frame");
    found
}

#[test]
fn a_connection_begins_with_preface_and_settings() {
    let mut client = Http2::new(Role::Client, Limits::default(), Instant::now());
    assert!(client.take_control().starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x18\x04"));
    let mut server = Http2::new(Role::Server, Limits::default(), Instant::now());
    assert!(server.take_control().starts_with(b"\0\0\x18\x04\0\0\0\0\0"));
}
