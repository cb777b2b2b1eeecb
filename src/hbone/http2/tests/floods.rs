//! Work for nothing (RFC 9113 §10.5) is cut off, or bounded; work that carries bytes is not.

use std::{collections::HashMap, time::Duration};

use super::*;

/// Repeats what `nth` makes until the end has enough: how many frames it took, and why.
fn flood(role: Role, limits: Limits, mut nth: impl FnMut(&mut Http2, u32) -> Vec<u8>) -> Failure {
    let mut end = greeted(role, limits);
    end.open("a:1", &[]);
    for n in 0..200_000 {
        let input = nth(&mut end, n);
        let told = tell_at(&mut end, &input, moment(n));
        assert!(end.unread() < 400 << 10, "control grows to {}", end.unread());
        assert!(end.open_streams() <= 200, "{} streams", end.open_streams());
        if let Err(failure) = told {
            return failure;
        }
    }
    panic!("a flood without end")
}

/// A million frames per second.
fn moment(n: u32) -> Instant {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *START + Duration::from_micros(u64::from(n))
}

fn calmed(why: &str, nth: impl FnMut(&mut Http2, u32) -> Vec<u8>) {
    let failure = flood(Role::Server, Limits::default(), nth);
    assert_eq!((failure.code, failure.why), (Code::ENHANCE_YOUR_CALM, why));
}

/// A caller of an application that is away for a while floods nobody.
#[test]
fn an_application_that_is_away_is_not_the_callers_offence() {
    let mut end = greeted(Role::Server, Limits::default());
    for n in 0..20_000 {
        tell_at(&mut end, &connect(2 * n + 1), moment(n)).unwrap();
        end.respond(2 * n + 1, 503, &[], true);
        end.take_control();
    }
}

#[test]
fn idle_work_is_cut_off() {
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    calmed("PING flood", |_, _| ping.clone());
    calmed("SETTINGS flood", |_, _| setting(4, 70_000));
    calmed("PRIORITY flood", |_, _| frame(kind::PRIORITY, 0, 9, &[0; 5]));
    calmed("flood of unknown frames", |_, _| frame(77, 0, 0, &[]));
    calmed("GOAWAY flood", |_, _| go_away(0));
    let pong = frame(kind::PING, flag::ACK, 0, &[0; 8]);
    calmed("flood of PING acknowledgements", |_, _| pong.clone());
    calmed("flood of SETTINGS acknowledgements", |_, _| frame(kind::SETTINGS, flag::ACK, 0, &[]));
    let update = |stream| frame(kind::WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1]);
    calmed("WINDOW_UPDATE flood", |_, _| update(0));
    calmed("WINDOW_UPDATE flood", |_, n| if n == 0 { connect(1) } else { update(1) });
    calmed("flood of requests that are refused", |end, n| {
        if n > 0 {
            end.respond(2 * n - 1, 401, &[], true);
            end.take_control();
        }
        connect(2 * n + 1)
    });
    calmed("rapid reset", |_, n| [connect(2 * n + 1), rst(2 * n + 1)].concat());
    calmed("RST_STREAM flood", |_, n| if n == 0 { connect(1) } else { rst(1) });
    let too_many = |_: &mut Http2, n: u32| connect(2 * n + 1);
    calmed("flood of stream errors", too_many);
    calmed("flood of stream errors", |_, n| headers(0, 2 * n + 1, &[]));
    calmed("flood of empty DATA", |_, n| if n == 0 { connect(1) } else { data(0, 1, &[]) });
    let padding = data(flag::PADDED, 1, &[3, 0, 0, 0]);
    calmed("flood of empty DATA", |_, n| if n == 0 { connect(1) } else { padding.clone() });
    calmed("DATA on closed streams", |_, n| match n {
        0 => [connect(1), rst(1)].concat(),
        _ => data(0, 1, b"x"),
    });
    calmed("HEADERS on closed streams", |_, n| match n {
        0 => [connect(1), rst(1)].concat(),
        _ => headers(1, 1, &[("a", "b")]),
    });
    calmed("streams after GOAWAY", |end, n| {
        end.go_away(Code::NO_ERROR, false);
        end.take_control();
        connect(2 * n + 1)
    });
    let interim = headers(0, 1, &[(":status", "103")]);
    let failure = flood(Role::Client, Limits::default(), |_, _| interim.clone());
    assert_eq!(failure.why, "flood of interim responses");
}

#[test]
fn a_header_block_has_an_end() {
    let more = |_: &mut Http2, n: u32| match n {
        0 => frame(kind::HEADERS, 0, 1, &[]),
        _ => frame(kind::CONTINUATION, 0, 1, &[]),
    };
    calmed("a header block that does not end", more);
    calmed("a header block that does not end", |_, n| {
        assert!(n < 4);
        let kind = if n == 0 { kind::HEADERS } else { kind::CONTINUATION };
        frame(kind, 0, 1, &[0; 16_384])
    });
    calmed("header blocks that are too large when unpacked", |_, n| {
        headers(1, 2 * n + 1, &[CONNECT, &[("x", &"y".repeat(16_300))]].concat()[..])
    });
}

/// A 4 KiB entry named 16,000 times in one frame is 64 MiB of fields.
#[test]
fn an_hpack_bomb_is_paid_for_by_what_it_unpacks_to() {
    let entry = |name: &str, value: &str| {
        let mut block = vec![0x40];
        for text in [name, value] {
            block.extend([
                0x7f,
                (text.len() - 127) as u8 & 0x7f | 0x80,
                ((text.len() - 127) >> 7) as u8,
            ]);
            block.extend_from_slice(text.as_bytes());
        }
        block
    };
    for (name, value, repeated) in [
        ("n".repeat(200), "v".repeat(3_800), &[0xbe][..]),
        ("n".repeat(3_800), "v".repeat(200), &[0x0f, 0x2f, 0x00]), // a literal of that name
    ] {
        let bomb = [block(CONNECT), entry(&name, &value), repeated.repeat(12_000 / repeated.len())]
            .concat();
        let mut frames = 0;
        let nth = |end: &mut Http2, n: u32| {
            frames = n;
            end.take_control();
            frame(kind::HEADERS, flag::END_HEADERS | 1, 2 * n + 1, &bomb)
        };
        calmed("header blocks that are too large when unpacked", nth);
        assert!(frames < 10, "{frames}");
    }
}

#[test]
fn a_peer_that_never_reads_is_cut_off() {
    let limits = Limits {
        flood: FloodLimits { burst: u32::MAX, per_second: 0 },
        stream_window: 100,
        stream_held: 100,
        stream_window_most: 100,
        ..Limits::default()
    };
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    let failure = flood(Role::Server, limits, |_, _| ping.clone());
    assert_eq!(failure.why, "many requests whose responses are not read");
    let only_data = |end: &mut Http2, n: u32| {
        end.release(1, 100, || 0);
        if n == 0 { connect(1) } else { data(0, 1, &[0; 100]) }
    };
    assert_eq!(
        flood(Role::Server, limits, only_data).why,
        "many requests whose responses are not read"
    );
}

#[test]
fn tiny_traffic_lives() {
    let limits = Limits { max_streams: 100, ..Limits::default() };
    let mut server = greeted(Role::Server, limits);
    let streams: Vec<u32> = (0..100).map(|n| 2 * n + 1).collect();
    for id in &streams {
        tell(&mut server, &connect(*id)).unwrap();
        server.respond(*id, 200, &[], false);
    }
    let round: Vec<u8> = streams.iter().flat_map(|id| data(0, *id, b"x")).collect();
    let many = round.repeat(10);
    let now = Instant::now();
    let (mut bytes, mut rounds) = (0_usize, 0);
    // All in the same instant: no allowance comes back.
    let whole = if cfg!(debug_assertions) { 1_000 } else { 10_000 };
    while rounds < whole {
        let mut used = 0;
        while used < many.len() {
            let (n, event) = server.receive(&many[used..], now).unwrap();
            used += n;
            if let Some(Event::Data { id, range, .. }) = event {
                bytes += range.len();
                server.release(id, range.len(), || 0);
            }
        }
        rounds += 1;
        assert!(server.take_control().len() < 10_000);
    }
    assert_eq!(bytes, whole * 1_000);
}

#[test]
fn a_thousand_orderly_streams_per_second_live() {
    let mut server = greeted(Role::Server, Limits::default());
    let start = Instant::now();
    let whole = block(CONNECT);
    for n in 0..60_000 {
        let (id, now) = (2 * n + 1, start + Duration::from_millis(u64::from(n)));
        let open = frame(kind::HEADERS, flag::END_HEADERS, id, &whole);
        assert_eq!(tell_at(&mut server, &open, now).unwrap().len(), 1);
        server.respond(id, 200, &[], false);
        let rest = [data(0, id, b"x"), data(flag::END_STREAM, id, b"")].concat();
        assert_eq!(tell_at(&mut server, &rest, now).unwrap().len(), 2);
        server.release(id, 1, || 0);
        server.finish(id);
        assert_eq!(server.open_streams(), 0);
        server.take_control();
    }
}

/// What was under way when we reset a stream was sent in good faith.
#[test]
fn late_data_is_free_as_far_as_its_window_went() {
    let mut server = greeted(Role::Server, Limits::default());
    tell(&mut server, &[connect(1), data(0, 1, b"x")].concat()).unwrap();
    server.reset(1, Code::CANCEL);
    let now = Instant::now();
    let mut late = 0;
    while tell_at(&mut server, &data(0, 1, b"x"), now).is_ok() {
        late += 1;
    }
    let free = (64 << 10) - 1;
    assert!((free + 3_900..=free + 4_000).contains(&late), "{late}");
}

/// What we say of our own accord is not held against the peer.
#[test]
fn a_burst_of_our_own_requests_is_no_flood() {
    let mut client = greeted(Role::Client, Limits::default());
    tell(&mut client, &setting(3, 5_000)).unwrap();
    let baggage = "k".repeat(400);
    for _ in 0..1_000 {
        client.open("10.0.0.1:80", &[("baggage", &baggage)]).unwrap();
    }
    assert_eq!(tell(&mut client, &frame(kind::PING, 0, 0, &[0; 8])), Ok(vec![]));
}

/// Two hundred readers that kept up and then stall together: what may be held for all of them.
#[test]
fn what_a_tunnel_may_hold_is_bounded() {
    let mut server = greeted(Role::Server, Limits::default());
    let mut allowed = HashMap::new();
    for id in (0..200).map(|n| 2 * n + 1) {
        tell(&mut server, &connect(id)).unwrap();
        server.respond(id, 200, &[], false);
        allowed.insert(id, 64 << 10);
        for _ in 0..20 {
            let bytes = vec![0; 32 << 10];
            tell(&mut server, &data(0, id, &bytes)).unwrap();
            *allowed.get_mut(&id).unwrap() -= bytes.len();
            server.release(id, bytes.len(), || 0);
            for (kind, _, stream, payload) in frames(&server.take_control()) {
                if kind == kind::WINDOW_UPDATE && stream == id {
                    let by = u32::from_be_bytes(payload.try_into().unwrap());
                    *allowed.get_mut(&id).unwrap() += by as usize;
                }
            }
        }
    }
    assert!((200 << 10..=256 << 10).contains(&allowed[&1]), "{} for the first", allowed[&1]);
    let all: usize = allowed.values().sum();
    assert!(all <= 200 * (64 << 10) + (8 << 20), "{all} bytes");
    // Whoever goes leaves it to others.
    (0..100).for_each(|n| server.reset(2 * n + 1, Code::CANCEL));
    server.release(399, 0, || 0);
    tell(&mut server, &data(0, 399, &vec![0; 32 << 10])).unwrap();
    server.take_control();
    server.release(399, 32 << 10, || 0);
    let more = frames(&server.take_control());
    assert_eq!(more[0].3, u32::to_be_bytes(96 << 10), "64 KiB become 128");
}
