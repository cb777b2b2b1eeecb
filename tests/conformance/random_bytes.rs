//! Fuzzing for stable Rust: valid exchanges, mutated, for ADIT_FUZZ_SECONDS (2).

use std::time::{Duration, Instant};

use adit::hbone::http2::{
    Code, Event, Http2, Limits, Role,
    frame::{flag, kind, put},
    hpack,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// What a peer of `role` may say: frames, each by itself.
fn exchange(role: Role, rng: &mut StdRng) -> Vec<Vec<u8>> {
    let frame = |kind, flags, stream, payload: &[u8]| {
        let mut out = Vec::new();
        put(&mut out, kind, flags, stream, payload);
        out
    };
    let mut said = vec![frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0, 0, 3, 0, 0, 0, 9])];
    if role == Role::Server {
        said.insert(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec());
    }
    for stream in [1, 3, 5] {
        let mut block = Vec::new();
        let fields: &[(&str, &str)] = match role {
            Role::Server => {
                &[(":method", "CONNECT"), (":authority", "a:1"), ("forwarded", "for=x")]
            }
            Role::Client => &[(":status", "200"), ("server", "x")],
        };
        fields.iter().for_each(|(name, value)| hpack::encode(&mut block, name, value));
        let (first, rest) = block.split_at(rng.random_range(0..=block.len()));
        said.push(frame(kind::HEADERS, 0, stream, first));
        said.push(frame(kind::CONTINUATION, flag::END_HEADERS, stream, rest));
    }
    for _ in 0..rng.random_range(0..20) {
        let stream = rng.random_range(0..4) * 2 + 1;
        let payload = vec![b'x'; rng.random_range(0..300)];
        said.push(match rng.random_range(0..9) {
            0 => frame(kind::PING, rng.random_range(0..2), 0, &[0; 8]),
            1 => frame(kind::WINDOW_UPDATE, 0, stream - 1, &rng.random::<[u8; 4]>()),
            2 => frame(kind::RST_STREAM, 0, stream, &[0; 4]),
            3 => frame(kind::PRIORITY, 0, stream, &[0; 5]),
            4 => frame(kind::DATA, flag::PADDED, stream, &[&[3], &payload[..], &[0; 3]].concat()),
            5 => frame(kind::GOAWAY, 0, 0, &[0; 12]),
            _ => frame(kind::DATA, rng.random_range(0..2), stream, &payload),
        });
    }
    said
}

fn mutate(said: &mut Vec<Vec<u8>>, rng: &mut StdRng) {
    for _ in 0..rng.random_range(0..4) {
        let at = rng.random_range(0..said.len());
        let other = rng.random_range(0..said.len());
        match rng.random_range(0..5) {
            0 => said.swap(at, other),
            1 => drop(said.remove(at)),
            2 => said.insert(at, said[other].clone()),
            3 => said[at] = (0..rng.random_range(0..40)).map(|_| rng.random()).collect(),
            _ => {
                let length = said[at].len().max(1);
                let byte = rng.random_range(0..length);
                if let Some(byte) = said[at].get_mut(byte) {
                    *byte = if rng.random() {
                        rng.random()
                    } else {
                        *byte ^ 1 << rng.random_range(0..8)
                    };
                }
            }
        }
        if said.is_empty() {
            return;
        }
    }
}

/// One connection with such a peer, answered at random.
fn run(role: Role, input: &[u8], rng: &mut StdRng) {
    let limits = Limits { max_streams: 8, ..Limits::default() };
    let now = Instant::now();
    let mut end = Http2::new(role, limits, now);
    if role == Role::Client {
        (0..3).for_each(|_| assert!(end.open("a:1", &[]).is_some()));
    }
    let step = rng.random_range(1..=input.len().max(1));
    for part in input.chunks(step) {
        let mut used = 0;
        while used < part.len() {
            let Ok((n, event)) = end.receive(&part[used..], now) else {
                end.go_away(Code::PROTOCOL_ERROR, false);
                assert!(end.take_control().len() < 300_000);
                return;
            };
            match event {
                Some(Event::Request { id, .. }) => match rng.random_range(0..4) {
                    0 => end.respond(id, 403, &[], true),
                    1 => end.reset(id, Code::CANCEL),
                    _ => end.respond(id, 200, &[], false),
                },
                Some(Event::Data { id, range, .. }) => {
                    assert!(range.end <= part.len() - used);
                    end.release(id, range.len(), || 1_000);
                    let length = end.sendable(id).min(10);
                    if length > 0 {
                        let _ = end.data_head(id, length);
                    }
                    if rng.random_range(0..8) == 0 {
                        end.finish(id);
                    }
                }
                _ => {}
            }
            used += n;
            assert!(end.open_streams() <= 8);
        }
    }
    assert!(end.take_control().len() < 300_000, "answers are bounded");
}

#[test]
fn mutated_exchanges_are_read_or_refused() {
    let seconds = std::env::var("ADIT_FUZZ_SECONDS").map_or(2, |s| s.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut seed = 0;
    while Instant::now() < until {
        seed += 1;
        let mut rng = StdRng::seed_from_u64(seed);
        for role in [Role::Server, Role::Client] {
            let mut said = exchange(role, &mut rng);
            mutate(&mut said, &mut rng);
            let input = said.concat();
            let run = || run(role, &input, &mut rng);
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            assert!(ended.is_ok(), "seed {seed}, {role:?}: {input:02x?}");
        }
    }
    assert!(seed > 100, "only {seed} exchanges");
}
