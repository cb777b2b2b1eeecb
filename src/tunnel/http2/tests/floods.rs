use std::time::Duration;

use super::*;

/// Feeds the same frames again and again; how often until the connection failed.
fn flood(end: &mut Http2, first: &Wire, each: impl Fn(u32) -> Wire) -> (u32, Option<Failure>) {
    let now = Instant::now();
    let mut give = |wire: &Wire| -> Result<(), Failure> {
        let mut rest = &wire.0[..];
        while !rest.is_empty() {
            rest = &rest[end.receive(rest, now)?.0..];
        }
        Ok(())
    };
    give(first).unwrap();
    for n in 0..100_000 {
        if let Err(failure) = give(&each(n)) {
            assert!(end.unread() < 600 * 1024, "answers pile up");
            return (n, Some(failure));
        }
    }
    (100_000, None)
}

#[test]
fn every_flood_ends_soon_and_fills_no_memory() {
    let id = |n: u32| 2 * n + 1;
    let bomb = |n: u32| {
        // One entry of 3 KiB, then thousands of references to it.
        let mut block = vec![0x40];
        block.extend_from_slice(&[1, b'a', 0x7f, 0xff, 0x16]);
        block.extend(vec![b'x'; 3070 - 128]);
        let mut first = Wire::default();
        if n == 0 {
            let length = block.len() - 6;
            block[3..6].copy_from_slice(&[
                0x7f,
                (length - 127) as u8 & 0x7f | 0x80,
                ((length - 127) >> 7) as u8,
            ]);
            first = first.frame(kind::HEADERS, flag::END_HEADERS, id(n), &block);
        }
        first.frame(kind::HEADERS, flag::END_HEADERS, id(n + 1), &vec![0xbe; 10_000])
    };
    type Each<'a> = &'a dyn Fn(u32) -> Wire;
    let floods: [(&str, Each<'_>); 11] = [
        ("rapid reset", &|n| {
            Wire::default().connect(id(n)).frame(kind::RST_STREAM, 0, id(n), &[0; 4])
        }),
        ("SETTINGS", &|_| Wire::default().frame(kind::SETTINGS, 0, 0, &[])),
        ("PING", &|_| Wire::default().frame(kind::PING, 0, 0, &[0; 8])),
        ("PRIORITY", &|n| Wire::default().frame(kind::PRIORITY, 0, id(n), &[0; 5])),
        ("empty DATA", &|n| match n {
            0 => Wire::default().connect(1),
            _ => Wire::default().frame(kind::DATA, 0, 1, &[]),
        }),
        ("malformed requests", &|n| Wire::default().headers(id(n), 0, &[("a", "b")])),
        ("unknown frames", &|_| Wire::default().frame(77, 0, 0, &[])),
        ("RST_STREAM of closed streams", &|n| match n {
            0 => Wire::default().connect(1),
            _ => Wire::default().frame(kind::RST_STREAM, 0, 1, &[0; 4]),
        }),
        ("GOAWAY", &|_| Wire::default().frame(kind::GOAWAY, 0, 0, &[0; 8])),
        ("headers too large", &|n| {
            Wire::default().headers(
                id(n),
                0,
                &[("a", &"x".repeat(9_000)), ("b", &"x".repeat(7_000))],
            )
        }),
        ("indexed headers", &bomb),
    ];
    for (what, each) in floods {
        let (frames, failure) = flood(&mut server(), &Wire::from_client(), each);
        let failure = failure.unwrap_or_else(|| panic!("{what} is borne for ever"));
        assert_eq!(failure.code, Code::ENHANCE_YOUR_CALM, "{what}: {failure}");
        assert!(frames <= 5_000, "{what}: after {frames}");
    }
}

#[test]
fn a_header_block_without_end_is_cut() {
    let start = Wire::from_client().frame(kind::HEADERS, 0, 1, &[0; 1]);
    let part = |_| Wire::default().frame(kind::CONTINUATION, 0, 1, &[]);
    let (frames, failure) = flood(&mut server(), &start, part);
    assert_eq!((frames, failure.unwrap().code), (15, Code::ENHANCE_YOUR_CALM));
}

#[test]
fn a_databases_small_packets_live() {
    let mut server = server();
    let open = (0..100).fold(Wire::from_client(), |wire, n| wire.connect(2 * n + 1));
    feed(&mut server, &open.0, usize::MAX >> 1).unwrap();
    let one = (0..100).fold(Wire::default(), |w, n| w.frame(kind::DATA, 0, 2 * n + 1, b"x"));
    for _ in 0..2_000 {
        for event in feed(&mut server, &one.0, usize::MAX >> 1).unwrap() {
            let Event::Data { id, range, .. } = event else { panic!("{event:?}") };
            server.release(id, range.len(), || 0);
        }
        server.take_control();
    }
}

#[test]
fn a_thousand_connections_a_second_live() {
    let mut server = server();
    let begin = Instant::now();
    feed(&mut server, &Wire::from_client().0, 999).unwrap();
    for n in 0..20_000_u32 {
        let id = 2 * n + 1;
        let now = begin + Duration::from_millis(u64::from(n));
        let wire = Wire::default().connect(id).frame(kind::DATA, flag::END_STREAM, id, &[]);
        let mut rest = &wire.0[..];
        while !rest.is_empty() {
            let (used, event) = server.receive(rest, now).unwrap();
            if let Some(Event::Request { id, .. }) = event {
                server.respond(id, 200, &[], false);
            }
            rest = &rest[used..];
        }
        server.finish(id);
        // Every third application resets its connection when it is done.
        if n % 3 == 0 {
            server
                .receive(
                    &Wire::default().frame(kind::RST_STREAM, 0, id, &[0; 4]).0,
                    now + Duration::from_millis(1),
                )
                .unwrap();
        }
        server.take_control();
    }
    assert_eq!(server.open_streams(), 0);
}
