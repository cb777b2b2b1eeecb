use super::*;

const CONNECT: (&str, &str) = (":method", "CONNECT");
const AUTHORITY: (&str, &str) = (":authority", "10.0.0.1:80");

/// What must come of a wire.
enum Then {
    /// The connection fails.
    Fails(Code),
    /// Stream 1 is reset, and the connection goes on.
    Resets(Code),
    /// So many events, none of them a reset.
    Goes(usize),
}
use Then::{Fails, Goes, Resets};

fn check(make: fn() -> Http2, what: &str, wire: &Wire, then: &Then) {
    for at_once in [usize::MAX, 1, 7] {
        let mut end = make();
        let got = feed(&mut end, &wire.0, at_once.min(wire.0.len()));
        let sent: Vec<_> = frames(&end.take_control())
            .into_iter()
            .map(|(head, payload)| (head.kind, head.stream, payload))
            .collect();
        let reset = |code: Code| (kind::RST_STREAM, 1, code.0.to_be_bytes().to_vec());
        match then {
            Fails(code) => {
                let got = got.map_err(|failure| failure.code);
                assert_eq!(got, Err(*code), "{what}, {at_once} bytes at once");
            }
            Resets(code) => {
                assert!(got.is_ok(), "{what}: {got:?}");
                assert!(sent.contains(&reset(*code)), "{what}: {sent:?}");
            }
            Goes(events) => {
                let got = got.unwrap_or_else(|failure| panic!("{what}: {failure}"));
                let mut told = got.clone();
                told.retain(|event| !matches!(event, Event::Settings));
                told.dedup_by_key(|event| match event {
                    Event::Data { id, .. } => *id, // in however many parts
                    other => 1_000_000 + std::ptr::from_ref(other).addr() as u32,
                });
                assert_eq!(told.len(), *events, "{what}: {got:?}");
                assert!(!sent.iter().any(|s| s.0 == kind::RST_STREAM), "{what}: {sent:?}");
            }
        }
    }
}

#[test]
fn a_server_holds_its_clients_to_the_rules() {
    let start = Wire::from_client;
    let with = |fields: &[(&str, &str)]| start().headers(1, 0, fields);
    let protocol = || Fails(Code::PROTOCOL_ERROR);
    let malformed = || Resets(Code::PROTOCOL_ERROR);
    let size = || Fails(Code::FRAME_SIZE_ERROR);
    let flow = || Fails(Code::FLOW_CONTROL_ERROR);
    let setting = |id: u16, value: u32| {
        let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        start().frame(kind::SETTINGS, 0, 0, &payload)
    };
    let block = [0x42, 0x07];
    for (what, wire, then) in [
        // §3.4
        ("another preface", Wire(b"GET / HTTP/1.1\r\n\r\n".to_vec()), protocol()),
        (
            "PING first",
            Wire(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()).frame(kind::PING, 0, 0, &[0; 8]),
            protocol(),
        ),
        (
            "an acknowledgement first",
            Wire(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()).frame(
                kind::SETTINGS,
                flag::ACK,
                0,
                &[],
            ),
            protocol(),
        ),
        // §4.2, §4.3
        (
            "a frame larger than announced",
            Wire([&start().0[..], &[0x20, 0, 0, 0, 0, 0, 0, 0, 1]].concat()),
            size(),
        ),
        (
            "a block that is not HPACK",
            start().frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff; 8]),
            Fails(Code::COMPRESSION_ERROR),
        ),
        (
            "a field index nobody has",
            start().frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xbe]),
            Fails(Code::COMPRESSION_ERROR),
        ),
        // §5.1, §5.1.1
        ("an even stream", start().connect(2), protocol()),
        ("DATA on an idle stream", start().frame(kind::DATA, 0, 1, b"x"), protocol()),
        (
            "WINDOW_UPDATE on an idle stream",
            start().frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            protocol(),
        ),
        (
            "RST_STREAM on an idle stream",
            start().frame(kind::RST_STREAM, 0, 1, &[0; 4]),
            protocol(),
        ),
        (
            "DATA behind END_STREAM",
            start().connect(1).frame(kind::DATA, 1, 1, b"x").frame(kind::DATA, 0, 1, b"y"),
            Resets(Code::STREAM_CLOSED),
        ),
        (
            "a lower stream that was never open",
            start().connect(3).frame(kind::DATA, 0, 1, b"x"),
            Goes(1),
        ),
        // §6.1
        (
            "padded DATA",
            start().connect(1).frame(kind::DATA, flag::PADDED, 1, b"\x02xy\0\0"),
            Goes(2),
        ),
        (
            "padding as long as the frame",
            start().connect(1).frame(kind::DATA, flag::PADDED, 1, b"\x04xy\0"),
            protocol(),
        ),
        (
            "no room for the pad length",
            start().connect(1).frame(kind::DATA, flag::PADDED, 1, b""),
            size(),
        ),
        ("DATA on stream 0", start().frame(kind::DATA, 0, 0, b"x"), protocol()),
        // §6.2, §6.10
        ("HEADERS on stream 0", start().connect(0), protocol()),
        (
            "padded HEADERS with priority",
            start().frame(
                kind::HEADERS,
                0x2c,
                1,
                &[&[1, 0, 0, 0, 0, 9][..], &hpack_of(&[CONNECT, AUTHORITY]), &[0]].concat(),
            ),
            Goes(1),
        ),
        (
            "HEADERS with too much padding",
            start().frame(kind::HEADERS, 0x0c, 1, &[9, 0]),
            protocol(),
        ),
        (
            "a block in three frames",
            start()
                .frame(kind::HEADERS, 0, 1, &hpack_of(&[CONNECT]))
                .frame(kind::CONTINUATION, 0, 1, &[])
                .frame(kind::CONTINUATION, flag::END_HEADERS, 1, &hpack_of(&[AUTHORITY])),
            Goes(1),
        ),
        (
            "another frame inside a block",
            start().frame(kind::HEADERS, 0, 1, &block).frame(kind::PING, 0, 0, &[0; 8]),
            protocol(),
        ),
        (
            "DATA inside a block",
            start().frame(kind::HEADERS, 0, 1, &block).frame(kind::DATA, 0, 1, b"x"),
            protocol(),
        ),
        (
            "CONTINUATION of another stream",
            start().frame(kind::HEADERS, 0, 1, &block).frame(kind::CONTINUATION, 4, 3, &[]),
            protocol(),
        ),
        (
            "CONTINUATION of nothing",
            start().frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]),
            protocol(),
        ),
        // §6.3 to §6.9
        ("PRIORITY of four bytes", start().frame(kind::PRIORITY, 0, 1, &[0; 4]), size()),
        ("PRIORITY", start().frame(kind::PRIORITY, 0, 1, &[0; 5]), Goes(0)),
        (
            "RST_STREAM of three bytes",
            start().connect(1).frame(kind::RST_STREAM, 0, 1, &[0; 3]),
            size(),
        ),
        ("SETTINGS on a stream", start().frame(kind::SETTINGS, 0, 1, &[]), protocol()),
        ("SETTINGS of five bytes", start().frame(kind::SETTINGS, 0, 0, &[0; 5]), size()),
        ("an acknowledgement with a payload", start().frame(kind::SETTINGS, 1, 0, &[0; 6]), size()),
        ("ENABLE_PUSH 2", setting(2, 2), protocol()),
        ("INITIAL_WINDOW_SIZE 2^31", setting(4, 1 << 31), flow()),
        ("MAX_FRAME_SIZE 16,383", setting(5, 16_383), protocol()),
        ("MAX_FRAME_SIZE 2^24", setting(5, 1 << 24), protocol()),
        ("an unknown setting", setting(99, 99), Goes(0)),
        ("PUSH_PROMISE", start().frame(kind::PUSH_PROMISE, 4, 1, &[0; 4]), protocol()),
        ("PING of seven bytes", start().frame(kind::PING, 0, 0, &[0; 7]), size()),
        ("PING on a stream", start().frame(kind::PING, 0, 1, &[0; 8]), protocol()),
        ("PING", start().frame(kind::PING, 0, 0, b"12345678"), Goes(0)),
        ("GOAWAY on a stream", start().frame(kind::GOAWAY, 0, 1, &[0; 8]), protocol()),
        ("GOAWAY of seven bytes", start().frame(kind::GOAWAY, 0, 0, &[0; 7]), size()),
        ("GOAWAY with much to say", start().frame(kind::GOAWAY, 0, 0, &[0; 40_000]), Goes(1)),
        ("WINDOW_UPDATE of three bytes", start().frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]), size()),
        ("WINDOW_UPDATE by 0", start().frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), protocol()),
        (
            "a stream's WINDOW_UPDATE by 0",
            start().connect(1).frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4]),
            malformed(),
        ),
        (
            "a window above 2^31-1",
            start().frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
            flow(),
        ),
        (
            "a stream's window above 2^31-1",
            start().connect(1).frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 255, 255, 255]),
            Resets(Code::FLOW_CONTROL_ERROR),
        ),
        ("an unknown frame", start().frame(99, 255, 77, &[7; 99]), Goes(0)),
        (
            "DATA beyond the stream's window",
            start().connect(1).frame(kind::DATA, 0, 1, &[0; 65_537]),
            Resets(Code::FLOW_CONTROL_ERROR),
        ),
        // §8.1 to §8.5
        ("CONNECT", with(&[CONNECT, AUTHORITY, ("te", "trailers")]), Goes(1)),
        ("CONNECT without authority", with(&[CONNECT]), malformed()),
        ("CONNECT with a scheme", with(&[CONNECT, AUTHORITY, (":scheme", "https")]), malformed()),
        ("CONNECT with a path", with(&[CONNECT, AUTHORITY, (":path", "/")]), malformed()),
        ("extended CONNECT", with(&[CONNECT, AUTHORITY, (":protocol", "websocket")]), malformed()),
        ("two authorities", with(&[CONNECT, AUTHORITY, AUTHORITY]), malformed()),
        ("a status in a request", with(&[CONNECT, AUTHORITY, (":status", "200")]), malformed()),
        ("no method", with(&[AUTHORITY]), malformed()),
        (
            "GET",
            with(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), AUTHORITY]),
            Goes(1),
        ),
        ("GET without path", with(&[(":method", "GET"), (":scheme", "http")]), malformed()),
        ("a pseudo field behind others", with(&[CONNECT, ("a", "b"), AUTHORITY]), malformed()),
        ("upper case", with(&[CONNECT, AUTHORITY, ("Aa", "b")]), malformed()),
        ("a blank in front", with(&[CONNECT, AUTHORITY, ("a", " b")]), malformed()),
        ("a line break", with(&[CONNECT, AUTHORITY, ("a", "b\r\nc: d")]), malformed()),
        ("connection", with(&[CONNECT, AUTHORITY, ("connection", "close")]), malformed()),
        ("te other than trailers", with(&[CONNECT, AUTHORITY, ("te", "gzip")]), malformed()),
        ("trailers", start().connect(1).headers(1, 1, &[("a", "b")]), Goes(2)),
        ("trailers that do not end", start().connect(1).headers(1, 0, &[("a", "b")]), malformed()),
        (
            "trailers with a pseudo field",
            start().connect(1).headers(1, 1, &[AUTHORITY]),
            malformed(),
        ),
    ] {
        check(server, what, &wire, &then);
    }
}

fn hpack_of(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    fields.iter().for_each(|(name, value)| hpack::encode(&mut block, name, value));
    block
}

#[test]
fn a_client_holds_its_servers_to_the_rules() {
    let start = Wire::from_server;
    let ok = |flags| start().headers(1, flags, &[(":status", "200")]);
    for (what, wire, then) in [
        ("an answer", ok(0), Goes(1)),
        ("an answer and DATA", ok(0).frame(kind::DATA, 1, 1, b"x"), Goes(2)),
        (
            "interim answers",
            start().headers(1, 0, &[(":status", "103")]).headers(1, 0, &[(":status", "200")]),
            Goes(1),
        ),
        (
            "an interim answer that ends",
            start().headers(1, 1, &[(":status", "103")]),
            Resets(Code::PROTOCOL_ERROR),
        ),
        ("no status", start().headers(1, 0, &[("a", "b")]), Resets(Code::PROTOCOL_ERROR)),
        (
            "a status of two digits",
            start().headers(1, 0, &[(":status", "20")]),
            Resets(Code::PROTOCOL_ERROR),
        ),
        (
            "DATA before the answer",
            start().frame(kind::DATA, 0, 1, b"x"),
            Resets(Code::PROTOCOL_ERROR),
        ),
        (
            "an answer to no request",
            start().headers(3, 0, &[(":status", "200")]),
            Fails(Code::PROTOCOL_ERROR),
        ),
        (
            "a stream of the server's",
            start().headers(2, 0, &[(":status", "200")]),
            Fails(Code::PROTOCOL_ERROR),
        ),
        (
            "ENABLE_PUSH from a server",
            Wire::default().frame(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1]),
            Fails(Code::PROTOCOL_ERROR),
        ),
        (
            "PUSH_PROMISE",
            start().frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]),
            Fails(Code::PROTOCOL_ERROR),
        ),
    ] {
        check(client, what, &wire, &then);
    }
}

#[test]
fn a_server_takes_no_more_streams_than_it_said() {
    let mut server = server();
    let wire = (0..=200).fold(Wire::from_client(), |wire, n| wire.connect(2 * n + 1));
    let events = feed(&mut server, &wire.0, usize::MAX >> 1).unwrap();
    assert_eq!(events.iter().filter(|e| matches!(e, Event::Request { .. })).count(), 200);
    let refused: Vec<_> = frames(&server.take_control())
        .into_iter()
        .filter(|(head, _)| head.kind == kind::RST_STREAM)
        .collect();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].0.stream, &refused[0].1[..]), (401, &[0, 0, 0, 7][..]));
}

#[test]
fn a_client_opens_no_more_streams_than_it_may() {
    let mut client = client();
    let limit = Wire::default().frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 2]);
    feed(&mut client, &limit.0, 99).unwrap();
    assert_eq!(
        (client.room(), client.open("a:1", &[]), client.open("a:1", &[])),
        (1, Some(3), None)
    );
    let gone = Wire::default().frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    let event = Event::GoAway { last: 1, code: Code::NO_ERROR };
    assert_eq!(feed(&mut client, &gone.0, 99).unwrap(), [event]);
    client.reset(3, Code::CANCEL);
    assert_eq!(client.open("a:1", &[]), None, "the server leaves");
}

#[test]
fn a_server_that_leaves_takes_only_what_it_promised() {
    let mut server = server();
    feed(&mut server, &Wire::from_client().connect(1).0, 999).unwrap();
    server.go_away(Code::NO_ERROR, true);
    assert_eq!(feed(&mut server, &Wire::default().connect(3).0, 999).unwrap().len(), 1);
    server.go_away(Code::NO_ERROR, false);
    assert_eq!(feed(&mut server, &Wire::default().connect(5).0, 999).unwrap().len(), 0);
    let last: Vec<_> = frames(&server.take_control())
        .into_iter()
        .filter(|(head, _)| head.kind == kind::GOAWAY)
        .map(|(_, p)| p[3])
        .collect();
    assert_eq!(last, [255, 3]);
}

#[test]
fn an_initial_window_that_shrinks_holds_streams_back() {
    let mut client = client();
    feed(&mut client, &Wire::from_server().0, 99).unwrap();
    assert_eq!(client.sendable(1), 16_384, "a frame");
    let _ = client.data_head(1, 16_384);
    let smaller = Wire::default().frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    feed(&mut client, &smaller.0, 99).unwrap();
    assert_eq!(client.sendable(1), 0);
    let more = Wire::default().frame(kind::WINDOW_UPDATE, 0, 1, &16_389_u32.to_be_bytes());
    assert_eq!(feed(&mut client, &more.0, 99).unwrap(), [Event::Window(Some(1))]);
    assert_eq!(client.sendable(1), 5);
}
