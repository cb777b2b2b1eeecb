//! Runs a case whole and cut small, and compares what became of it.

use super::*;

/// What must become of a case.
#[derive(Clone, Copy, Debug)]
pub(super) enum Must {
    /// The connection ends.
    Fail(Code),
    /// The stream ends, for both sides, and nothing else.
    Reset(u32, Code),
    /// The stream never was: the peer is told, nobody else.
    Refuse(u32, Code),
    /// Nothing happens.
    Ignore,
    /// There are these events.
    Tell(&'static str),
}
use Must::*;

/// What became of it.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    /// One line per event; DATA as its bytes, pieces joined.
    pub(super) events: Vec<String>,
    pub(super) failure: Option<Code>,
    pub(super) control: Vec<(u8, u8, u32, Vec<u8>)>,
}

/// A server takes CONNECT 1 and answers all, a client has opened 1 and 3; both may take 100 bytes
/// per stream and have two streams at once.
pub(super) fn run(role: Role, greet: bool, input: &[u8], step: usize) -> Seen {
    let limits = Limits { stream_window: 100, max_streams: 2, ..Limits::default() };
    let limits = Limits { connection_window: 65_535, ..limits };
    let mut end = Http2::new(role, limits, Instant::now());
    if greet {
        tell(&mut end, &greeting(role)).unwrap();
        if role == Role::Client {
            assert_eq!((end.open("a:1", &[]), end.open("a:1", &[])), (Some(1), Some(3)));
        } else {
            tell(&mut end, &connect(1)).unwrap();
            end.respond(1, 200, &[], false);
        }
    }
    end.take_control();
    let mut seen = Seen { events: Vec::new(), failure: None, control: Vec::new() };
    let mut joined = None;
    'all: for mut part in input.chunks(step) {
        while !part.is_empty() {
            let (n, event) = match end.receive(part, Instant::now()) {
                Ok(step) => step,
                Err(failure) => {
                    seen.failure = Some(failure.code);
                    break 'all;
                }
            };
            match event {
                Some(Event::Data { id, range, end }) => {
                    let bytes = String::from_utf8_lossy(&part[range]).into_owned();
                    if joined != Some(id) {
                        seen.events.push(format!("{id}:"));
                    }
                    let line = seen.events.last_mut().unwrap();
                    line.push_str(&bytes);
                    line.push_str(if end { "." } else { "" });
                    joined = Some(id);
                }
                Some(event) => {
                    if let Event::Request { id, .. } = event {
                        end.respond(id, 200, &[], false);
                    }
                    joined = None;
                    seen.events.push(format!("{event:?}"));
                }
                None => {}
            }
            part = &part[n..];
        }
    }
    seen.control = frames(&end.take_control());
    seen
}

/// Runs a case in all ways; `input` comes behind the greeting, unless `raw`.
pub(super) fn check(name: &str, role: Role, raw: bool, input: &[u8], must: Must) {
    let alive = frame(kind::PING, 0, 0, b"are you?");
    let input = [input, alive.as_slice()].concat();
    let seen = run(role, !raw, &input, usize::MAX);
    for step in [1, 2, 7] {
        assert_eq!(run(role, !raw, &input, step), seen, "{name}: differs by {step} bytes");
    }
    let told = |(kind, _, stream, payload): &(u8, u8, u32, Vec<u8>)| {
        let code = || Code(u32::from_be_bytes(payload.as_slice().try_into().unwrap()));
        (*kind == kind::RST_STREAM).then(|| (*stream, code()))
    };
    let resets: Vec<_> = seen.control.iter().filter_map(told).collect();
    let event = |id, code| format!("{:?}", Event::Reset { id, code });
    let ok = match must {
        Fail(code) => seen.failure == Some(code),
        Reset(id, code) => resets == [(id, code)] && seen.events.last() == Some(&event(id, code)),
        Refuse(id, code) => {
            resets == [(id, code)] && !seen.events.iter().any(|e| e.starts_with("Reset"))
        }
        Ignore => resets.is_empty() && seen.events.is_empty(),
        Tell(events) => resets.is_empty() && seen.events.join(" ") == events,
    };
    assert!(ok, "{name} ({role:?}) must {must:?}: {seen:?}");
    if !matches!(must, Fail(_)) {
        let pong = (kind::PING, flag::ACK, 0, b"are you?".to_vec());
        assert!(seen.failure.is_none() && seen.control.contains(&pong), "{name}: {seen:?}");
    }
}

pub(super) fn server(cases: &[(&str, Vec<u8>, Must)]) {
    cases.iter().for_each(|(name, input, must)| check(name, Role::Server, false, input, *must));
}

pub(super) fn client(cases: &[(&str, Vec<u8>, Must)]) {
    cases.iter().for_each(|(name, input, must)| check(name, Role::Client, false, input, *must));
}

/// What fails either end; the client has an answer first.
pub(super) fn both(cases: &[(&str, Vec<u8>, Must)]) {
    server(cases);
    for (name, input, must) in cases {
        check(name, Role::Client, false, &[ok(1), input.clone()].concat(), *must);
    }
}

/// The answer to a client's stream.
pub(super) fn ok(stream: u32) -> Vec<u8> {
    headers(0, stream, OK)
}

/// CONNECT with more fields, before or behind.
pub(super) fn asks(before: &[(&str, &str)], behind: &[(&str, &str)]) -> Vec<u8> {
    headers(0, 3, &[before, CONNECT, behind].concat())
}
