//! What RFC 9113 forbids, section by section: each case whole and byte by byte.

use super::{
    Code as C,
    cases::{Must::*, asks, both, check, client, ok, run, server},
    *,
};

#[test]
fn s3_4_the_preface() {
    let raw = |name, role, input: Vec<u8>, must| check(name, role, true, &input, must);
    let bad = Fail(C::PROTOCOL_ERROR);
    raw("another protocol", Role::Server, b"GET / HTTP/1.1\r\n\r\n".to_vec(), bad);
    raw("almost", Role::Server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r".to_vec(), bad);
    let then = |f: Vec<u8>| [PREFACE.as_slice(), &f].concat();
    let ack = frame(kind::SETTINGS, flag::ACK, 0, &[]);
    for (name, first) in [
        ("PING first", frame(kind::PING, 0, 0, &[0; 8])),
        ("an ACK first", ack.clone()),
        ("DATA first", data(0, 1, b"x")),
        ("HEADERS first", connect(1)),
        ("an unknown frame first", frame(99, 0, 0, &[])),
    ] {
        raw(name, Role::Server, then(first.clone()), bad);
        raw(name, Role::Client, first, bad);
    }
    raw("a preface to a client", Role::Client, greeting(Role::Server), Fail(C::FRAME_SIZE_ERROR));
    raw("as it should be", Role::Server, greeting(Role::Server), Tell("Settings"));
    raw("as it should be", Role::Client, greeting(Role::Client), Tell("Settings"));
}

#[test]
fn s4_frames() {
    let big = |kind, stream| frame(kind, 0, stream, &vec![0; (1 << 20) + 1]);
    both(&[
        ("DATA above the limit", big(kind::DATA, 1), Fail(C::FRAME_SIZE_ERROR)),
        ("HEADERS above the limit", big(kind::HEADERS, 3), Fail(C::FRAME_SIZE_ERROR)),
        ("unknown above the limit", big(0x77, 0), Fail(C::FRAME_SIZE_ERROR)),
        (
            "not HPACK",
            frame(kind::HEADERS, flag::END_HEADERS, 3, &[0x80]),
            Fail(C::COMPRESSION_ERROR),
        ),
        (
            "a cut block",
            frame(kind::HEADERS, flag::END_HEADERS, 3, &[0x41]),
            Fail(C::COMPRESSION_ERROR),
        ),
        (
            "a block above the limit",
            frame(kind::HEADERS, 0, 3, &vec![0; 32_769]),
            Fail(C::ENHANCE_YOUR_CALM),
        ),
    ]);
    for role in [Role::Server, Role::Client] {
        let odd =
            [frame(0x77, 0xff, 0, &[1; 20_000]), frame(10, 0, 77, b"altsvc"), setting(0x99, 7)];
        let seen = run(role, true, &odd.concat(), 3);
        assert_eq!((seen.failure, seen.events), (None, vec!["Settings".to_owned()]));
        let mut reserved = frame(kind::PING, 0, 0, &[0; 8]);
        reserved[5] |= 0x80;
        check("the reserved bit", role, false, &reserved, Ignore);
    }
}

#[test]
fn s5_1_states() {
    let ended = data(flag::END_STREAM, 1, b"");
    let then = |f: Vec<u8>| [ended.clone(), f].concat();
    let bad = Fail(C::PROTOCOL_ERROR);
    both(&[
        ("DATA, idle", data(0, 5, b"x"), bad),
        ("RST_STREAM, idle", rst(5), bad),
        ("WINDOW_UPDATE, idle", window(5, 1), bad),
        ("DATA on even", data(0, 2, b"x"), bad),
        ("RST_STREAM on even", rst(2), bad),
        ("HEADERS on even", connect(2), bad),
        ("trailers on even", headers(1, 2, &[("a", "b")]), bad),
    ]);
    server(&[
        ("HEADERS on even behind", [connect(3), connect(2)].concat(), bad),
        ("trailers on even behind", [connect(3), headers(1, 2, &[("a", "b")])].concat(), bad),
        ("a lower stream", [connect(7), connect(5)].concat(), bad),
        ("the stream before last", [connect(5), connect(3)].concat(), bad),
        ("a stream used up", [rst(1), connect(1)].concat(), bad),
        ("DATA, half-closed", then(data(0, 1, b"x")), Reset(1, C::STREAM_CLOSED)),
        ("empty DATA, half-closed", then(data(0, 1, b"")), Reset(1, C::STREAM_CLOSED)),
        ("HEADERS, half-closed", then(headers(1, 1, &[("a", "b")])), Reset(1, C::STREAM_CLOSED)),
        ("WINDOW_UPDATE, half-closed", then(window(1, 1)), Tell("1:. Window(Some(1))")),
        (
            "late frames",
            [rst(1), data(0, 1, b"x"), window(1, 1), rst(1)].concat(),
            Tell("Reset { id: 1, code: CANCEL }"),
        ),
        (
            "late trailers",
            [rst(1), headers(1, 1, &[("a", "b")])].concat(),
            Tell("Reset { id: 1, code: CANCEL }"),
        ),
        ("too many streams", [connect(3), connect(5)].concat(), Refuse(5, C::REFUSED_STREAM)),
        (
            "DATA behind",
            [connect(3), connect(5), data(0, 5, b"x"), rst(5)].concat(),
            Refuse(5, C::REFUSED_STREAM),
        ),
        ("PRIORITY anywhere", frame(kind::PRIORITY, 0, 99, &[0; 5]), Ignore),
    ]);
    client(&[
        ("an answer to nothing", ok(5), bad),
        ("a server's stream", ok(2), bad),
        ("DATA before the answer", data(0, 1, b"x"), Reset(1, C::PROTOCOL_ERROR)),
        (
            "DATA behind the end",
            [headers(1, 1, OK), data(0, 1, b"x")].concat(),
            Reset(1, C::STREAM_CLOSED),
        ),
    ]);
}

#[test]
fn s6_1_data() {
    let padded = |payload: &[u8]| data(flag::PADDED, 1, payload);
    both(&[
        ("on stream 0", data(0, 0, b"x"), Fail(C::PROTOCOL_ERROR)),
        ("padding longer than the frame", padded(b"\x04abc"), Fail(C::PROTOCOL_ERROR)),
        ("padding without a length", padded(b""), Fail(C::FRAME_SIZE_ERROR)),
        ("above the connection's window", data(0, 1, &[0; 65_536]), Fail(C::FLOW_CONTROL_ERROR)),
    ]);
    server(&[
        ("all padding", padded(b"\x03abc"), Ignore),
        ("padding", padded(b"\x02hello__"), Tell("1:hello")),
        ("padding of none", data(flag::PADDED | 1, 1, b"\x00hello"), Tell("1:hello.")),
        ("padding at the end", data(flag::PADDED | 1, 1, b"\x01hello_"), Tell("1:hello.")),
        ("above the stream's window", data(0, 1, &[b'x'; 101]), Reset(1, C::FLOW_CONTROL_ERROR)),
        (
            "the rest of it",
            [data(0, 1, &[b'x'; 101]), data(0, 1, b"x")].concat(),
            Reset(1, C::FLOW_CONTROL_ERROR),
        ),
        (
            "padding counts",
            data(flag::PADDED, 1, &[[99].as_slice(), &[0; 100]].concat()),
            Reset(1, C::FLOW_CONTROL_ERROR),
        ),
        (
            "as much as allowed",
            data(1, 1, &[b'x'; 100]),
            Tell(concat!(
                "1:",
                "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
                "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx."
            )),
        ),
    ]);
}

/// What nobody takes is taken as it comes: a stream of padding never runs out of window.
#[test]
fn s6_1_padding_is_given_back() {
    let limits = Limits { stream_window: 100, ..Limits::default() };
    let mut server = greeted(Role::Server, limits);
    tell(&mut server, &connect(1)).unwrap();
    server.respond(1, 200, &[], false);
    let mut left = 100_i64;
    for n in 0..50 {
        let frame = data(flag::PADDED, 1, &[&[9, b'x'], &[0; 9][..]].concat());
        left -= 11;
        assert!(left >= 0, "no window is left after {n} frames");
        let told = tell(&mut server, &frame).unwrap();
        assert!(matches!(told[..], [Event::Data { .. }]), "{told:?}");
        server.release(1, 1, || 100);
        for (kind, _, stream, by) in frames(&server.take_control()) {
            if (kind, stream) == (kind::WINDOW_UPDATE, 1) {
                left += i64::from(u32::from_be_bytes(by.try_into().unwrap()));
            }
        }
    }
}

#[test]
fn s6_2_and_6_10_headers() {
    let head = |flags, payload: &[u8]| frame(kind::HEADERS, flags, 3, payload);
    let more = |flags, stream, payload: &[u8]| frame(kind::CONTINUATION, flags, stream, payload);
    let (whole, part) = (block(CONNECT), block(&CONNECT[..1]));
    let rest = &whole[part.len()..];
    let padded = [&[2], whole.as_slice(), &[0; 2]].concat();
    let priority = [&[0; 5], whole.as_slice()].concat();
    let request = Tell(
        "Request { id: 3, request: Request { is_connect: true, authority: \"10.0.0.1:80\", \
         forwarded: None }, end: false }",
    );
    server(&[
        ("padded", head(4 | flag::PADDED, &padded), request),
        ("with priority", head(4 | flag::PRIORITY, &priority), request),
        ("in two", [head(0, &part), more(4, 3, rest)].concat(), request),
        ("in three", [head(0, &part), more(0, 3, &[]), more(4, 3, rest)].concat(), request),
    ]);
    let bad = Fail(C::PROTOCOL_ERROR);
    both(&[
        ("on stream 0", headers(0, 0, CONNECT), bad),
        ("too much padding", head(4 | flag::PADDED, &[3, 1, 1]), bad),
        ("no padding length", head(4 | flag::PADDED, &[]), Fail(C::FRAME_SIZE_ERROR)),
        ("no room for a priority", head(4 | flag::PRIORITY, &[0; 4]), Fail(C::FRAME_SIZE_ERROR)),
        ("CONTINUATION without HEADERS", more(4, 3, &[]), bad),
        ("CONTINUATION on stream 0", more(4, 0, &[]), bad),
        (
            "CONTINUATION of a whole block",
            [headers(0, 1, &[("a", "b")]), more(4, 1, &[])].concat(),
            bad,
        ),
        ("CONTINUATION of another", [head(0, &part), more(4, 1, rest)].concat(), bad),
        ("HEADERS inside", [head(0, &part), head(4, rest)].concat(), bad),
        ("DATA inside", [head(0, &part), data(0, 1, b"x")].concat(), bad),
        ("PING inside", [head(0, &part), frame(kind::PING, 0, 0, &[0; 8])].concat(), bad),
        ("unknown inside", [head(0, &part), frame(0x77, 0, 3, &[])].concat(), bad),
    ]);
}

#[test]
fn s6_3_to_6_9_the_others() {
    let sized = Fail(C::FRAME_SIZE_ERROR);
    let bad = Fail(C::PROTOCOL_ERROR);
    let flow = Fail(C::FLOW_CONTROL_ERROR);
    both(&[
        ("PRIORITY on stream 0", frame(kind::PRIORITY, 0, 0, &[0; 5]), bad),
        ("RST_STREAM on stream 0", rst(0), bad),
        ("RST_STREAM of 3", frame(kind::RST_STREAM, 0, 1, &[0; 3]), sized),
        ("SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, &[]), bad),
        ("SETTINGS of 5", frame(kind::SETTINGS, 0, 0, &[0; 5]), sized),
        ("SETTINGS ACK with more", frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]), sized),
        ("ENABLE_PUSH 2", setting(2, 2), bad),
        ("INITIAL_WINDOW_SIZE 2^31", setting(4, 1 << 31), flow),
        ("MAX_FRAME_SIZE 16383", setting(5, 16_383), bad),
        ("MAX_FRAME_SIZE 2^24", setting(5, 1 << 24), bad),
        ("PUSH_PROMISE", frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]), bad),
        ("PING on a stream", frame(kind::PING, 0, 1, &[0; 8]), bad),
        ("PING of 7", frame(kind::PING, 0, 0, &[0; 7]), sized),
        ("PING of 16,000", frame(kind::PING, 0, 0, &[0; 16_000]), sized),
        ("GOAWAY on a stream", frame(kind::GOAWAY, 0, 1, &[0; 8]), bad),
        ("GOAWAY of 7", frame(kind::GOAWAY, 0, 0, &[0; 7]), sized),
        ("WINDOW_UPDATE of 3", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]), sized),
        ("WINDOW_UPDATE by 0", window(0, 0), bad),
        ("WINDOW_UPDATE above 2^31-1", window(0, (1 << 31) - 65_535), flow),
        (
            "SETTINGS above 2^31-1",
            [window(1, (1 << 31) - 1 - 65_535), setting(4, 65_536)].concat(),
            flow,
        ),
    ]);
    server(&[
        ("ENABLE_PUSH 1", setting(2, 1), Tell("Settings")),
        ("SETTINGS ACK", frame(kind::SETTINGS, flag::ACK, 0, &[]), Ignore),
        ("PRIORITY of 4", frame(kind::PRIORITY, 0, 1, &[0; 4]), Reset(1, C::FRAME_SIZE_ERROR)),
        ("PRIORITY of 4 on an idle stream", frame(kind::PRIORITY, 0, 7, &[0; 4]), Ignore),
        (
            "PRIORITY of 4 late",
            [rst(1), frame(kind::PRIORITY, 0, 1, &[0; 4])].concat(),
            Tell("Reset { id: 1, code: CANCEL }"),
        ),
        ("a stream's WINDOW_UPDATE by 0", window(1, 0), Reset(1, C::PROTOCOL_ERROR)),
        ("a stream's above 2^31-1", window(1, (1 << 31) - 65_535), Reset(1, C::FLOW_CONTROL_ERROR)),
        ("the most", window(1, (1 << 31) - 65_536), Tell("Window(Some(1))")),
        ("the connection's most", window(0, (1 << 31) - 65_536), Tell("Window(None)")),
        (
            "PING ACK",
            frame(kind::PING, flag::ACK, 0, b"12345678"),
            Tell("Pong([49, 50, 51, 52, 53, 54, 55, 56])"),
        ),
        (
            "GOAWAY with text",
            frame(kind::GOAWAY, 0, 0, &[0; 20_000]),
            Tell("GoAway { last: 0, code: NO_ERROR }"),
        ),
    ]);
    client(&[
        ("ENABLE_PUSH 1", setting(2, 1), bad),
        ("ENABLE_PUSH 0", setting(2, 0), Tell("Settings")),
    ]);
}

#[test]
fn s8_messages() {
    let wrong = Refuse(3, C::PROTOCOL_ERROR);
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    let no_path = headers(0, 3, &get[..2]);
    server(&[
        ("upper case", asks(&[], &[("Via", "x")]), wrong),
        ("connection", asks(&[], &[("connection", "close")]), wrong),
        ("transfer-encoding", asks(&[], &[("transfer-encoding", "chunked")]), wrong),
        ("te", asks(&[], &[("te", "gzip")]), wrong),
        ("a blank in front", asks(&[], &[("a", " b")]), wrong),
        ("a line feed", asks(&[], &[("a", "b\nc")]), wrong),
        ("a colon in a name", asks(&[], &[("a:b", "c")]), wrong),
        ("no name", asks(&[], &[("", "c")]), wrong),
        ("a pseudo field behind", asks(&[("a", "b")], &[]), wrong),
        ("twice :method", asks(&[], &[(":method", "CONNECT")]), wrong),
        ("twice :authority", asks(&[], &[(":authority", "b:1")]), wrong),
        ("CONNECT with :scheme", asks(&[], &[(":scheme", "http")]), wrong),
        ("CONNECT with :path", asks(&[], &[(":path", "/")]), wrong),
        ("CONNECT with :protocol", asks(&[], &[(":protocol", "websocket")]), wrong),
        ("CONNECT with :status", asks(&[], &[(":status", "200")]), wrong),
        ("CONNECT without :authority", headers(0, 3, &CONNECT[..1]), wrong),
        ("no :method", headers(0, 3, &CONNECT[1..]), wrong),
        ("nothing", headers(0, 3, &[]), wrong),
        ("GET without :path", no_path, wrong),
        (
            "GET",
            headers(1, 3, &get),
            Tell(
                "Request { id: 3, request: Request { is_connect: false, authority: \"\", \
                 forwarded: None }, end: true }",
            ),
        ),
        (
            "te: trailers",
            asks(&[], &[("te", "trailers"), ("forwarded", "for=a")]),
            Tell(
                "Request { id: 3, request: Request { is_connect: true, authority: \"10.0.0.1:80\", \
                 forwarded: Some(\"for=a\") }, end: false }",
            ),
        ),
        ("trailers (§8.5)", headers(1, 1, &[("a", "b")]), Reset(1, C::PROTOCOL_ERROR)),
        ("trailers without END_STREAM", headers(0, 1, &[("a", "b")]), Reset(1, C::PROTOCOL_ERROR)),
        ("trailers with a pseudo field", headers(1, 1, OK), Reset(1, C::PROTOCOL_ERROR)),
        ("trailers in upper case", headers(1, 1, &[("A", "b")]), Reset(1, C::PROTOCOL_ERROR)),
        ("a second request", connect(1), Reset(1, C::PROTOCOL_ERROR)),
    ]);
    let interim = headers(0, 1, &[(":status", "103")]);
    let wrong = Reset(1, C::PROTOCOL_ERROR);
    client(&[
        ("an answer", ok(1), Tell("Response { id: 1, status: 200, end: false }")),
        (
            "an answer and end",
            headers(1, 1, &[(":status", "404")]),
            Tell("Response { id: 1, status: 404, end: true }"),
        ),
        ("interim", interim.clone(), Ignore),
        (
            "interim, then one",
            [interim.clone(), ok(1)].concat(),
            Tell("Response { id: 1, status: 200, end: false }"),
        ),
        ("interim and end", headers(1, 1, &[(":status", "103")]), wrong),
        ("interim and DATA", [interim, data(0, 1, b"x")].concat(), wrong),
        ("no :status", headers(0, 1, &[("a", "b")]), wrong),
        ("twice :status", headers(0, 1, &[OK, OK].concat()), wrong),
        ("no number", headers(0, 1, &[(":status", "2xx")]), wrong),
        ("four digits", headers(0, 1, &[(":status", "2000")]), wrong),
        ("a sign", headers(0, 1, &[(":status", "+20")]), wrong),
        ("a field of requests", headers(0, 1, &[OK, &[(":path", "/")]].concat()), wrong),
        ("connection", headers(0, 1, &[OK, &[("connection", "x")]].concat()), wrong),
        ("trailers", [ok(1), headers(1, 1, &[("a", "b")])].concat(), wrong),
        ("a second answer", [ok(1), ok(1)].concat(), wrong),
    ]);
}

#[test]
fn a_whole_exchange() {
    let input = [
        connect(3),
        data(0, 1, b"hello "),
        data(0, 3, b"other"),
        data(0, 1, b"wor"),
        data(flag::PADDED | 1, 1, b"\x03ld___"),
        window(3, 5),
        rst(3),
        go_away(0),
    ];
    let told = "Request { id: 3, request: Request { is_connect: true, authority: \"10.0.0.1:80\", \
                forwarded: None }, end: false } 1:hello  3:other 1:world. Window(Some(3)) \
                Reset { id: 3, code: CANCEL } GoAway { last: 0, code: NO_ERROR }";
    check("exchange", Role::Server, false, &input.concat(), Tell(told));
}

#[test]
fn s6_8_going_away() {
    let mut server = greeted(Role::Server, Limits::default());
    tell(&mut server, &connect(1)).unwrap();
    server.go_away(Code::NO_ERROR, true);
    assert_eq!(tell(&mut server, &connect(3)).unwrap().len(), 1, "a last call is still heard");
    server.go_away(Code::NO_ERROR, false);
    let late = [connect(5), data(0, 5, b"x"), window(5, 1), data(0, 1, b"x"), rst(5)].concat();
    let events = tell(&mut server, &late).unwrap();
    assert!(matches!(events[..], [Event::Data { id: 1, .. }]), "{events:?}");
    server.go_away(Code::NO_ERROR, false);
    let last: Vec<_> =
        frames(&server.take_control()).into_iter().filter(|f| f.0 == kind::GOAWAY).collect();
    let last: Vec<_> =
        last.iter().map(|f| u32::from_be_bytes(f.3[..4].try_into().unwrap())).collect();
    assert_eq!(last, [(1 << 31) - 1, 3, 3], "it never rises");

    let mut client = greeted(Role::Client, Limits::default());
    let ids = [client.open("a:1", &[]), client.open("a:1", &[])];
    assert_eq!(ids, [Some(1), Some(3)]);
    let events = tell(&mut client, &go_away(1)).unwrap();
    assert_eq!(events, [Event::GoAway { last: 1, code: Code::NO_ERROR }]);
    assert_eq!((client.room(), client.open("a:1", &[])), (0, None));
    assert!(tell(&mut client, &ok(1)).is_ok_and(|e| e.len() == 1), "the first lives on");
}

#[test]
fn s4_3_1_our_first_block_says_that_we_use_no_table() {
    let mut client = greeted(Role::Client, Limits::default());
    client.open("a:1", &[]);
    client.open("a:1", &[]);
    let sent = frames(&client.take_control());
    assert_eq!((sent[0].3[0], sent[1].3[0] & 0xe0 == 0x20), (hpack::NO_TABLE, false));
}

#[test]
fn what_we_send_keeps_the_peers_limits() {
    let mut client = greeted(Role::Client, Limits::default());
    tell(&mut client, &[setting(3, 2), setting(4, 10)].concat()).unwrap();
    assert_eq!(client.room(), 2);
    let id = client.open("a:1", &[("x", &"y".repeat(40_000))]).unwrap();
    let sent: Vec<_> =
        frames(&client.take_control()).into_iter().filter(|f| f.0 != kind::SETTINGS).collect();
    let shape: Vec<_> = sent.iter().map(|f| (f.0, f.1, f.3.len() <= 16_384)).collect();
    assert_eq!(shape, [(1, 0, true), (9, 0, true), (9, flag::END_HEADERS, true)]);
    assert_eq!(client.sendable(id), 10);
    let _ = client.data_head(id, 10);
    tell(&mut client, &setting(4, 3)).unwrap();
    assert_eq!(client.sendable(id), 0, "7 below zero");
    tell(&mut client, &window(id, 8)).unwrap();
    assert_eq!(client.sendable(id), 1);
    client.finish(id);
    assert_eq!(client.sendable(id), 0);
}

#[test]
fn eager_streams_share_what_there_is_beyond_first_windows() {
    let most = 3 << 20;
    let limits = Limits { stream_window: 100, stream_held: most, eager: true, ..Limits::default() };
    let mut client = greeted(Role::Client, limits);
    let credit = |client: &mut Http2| {
        let id = client.open("a:1", &[]).unwrap();
        let sent = frames(&client.take_control());
        let mut windows = sent.iter().filter(|f| (f.0, f.2) == (kind::WINDOW_UPDATE, id));
        windows.next().map_or(0, |f| u32::from_be_bytes(f.3[..].try_into().unwrap()))
    };
    let (all, rest) = (most - 100, (8 << 20) - 2 * (most - 100));
    let credits = [(); 4].map(|()| credit(&mut client));
    assert_eq!(credits, [all, all, rest, 0]);
    client.reset(3, Code::CANCEL);
    assert_eq!(credit(&mut client), all, "what was given back");
}

#[test]
fn nothing_is_told_of_a_stream_that_we_reset() {
    let mut server = greeted(Role::Server, Limits::default());
    let input = [connect(1), data(0, 1, b"hello"), frame(kind::PING, 0, 0, &[0; 8])].concat();
    let cut = input.len() - 17 - 2;
    assert_eq!(tell(&mut server, &input[..cut]).unwrap().len(), 2);
    server.reset(1, Code::CANCEL);
    assert_eq!(tell(&mut server, &input[cut..]), Ok(vec![]));
}

/// However it is cut: our SETTINGS allow frames of a mebibyte.
#[test]
fn s6_5_2_a_header_list_above_the_limit_costs_its_stream_only() {
    let long = "y".repeat(30_000);
    let whole = block(&[CONNECT, &[("x", &long)]].concat());
    let (some, rest) = whole.split_at(16_000);
    let in_two =
        [frame(kind::HEADERS, 0, 1, some), frame(kind::CONTINUATION, flag::END_HEADERS, 1, rest)];
    for input in [frame(kind::HEADERS, flag::END_HEADERS, 1, &whole), in_two.concat()] {
        let mut server = greeted(Role::Server, Limits::default());
        assert_eq!(tell(&mut server, &input), Ok(vec![]));
        let told = frames(&server.take_control());
        assert!((told[0].0, told[0].2) == (kind::HEADERS, 1), "431: {told:?}");
        assert_eq!(server.open_streams(), 0);
    }
}
