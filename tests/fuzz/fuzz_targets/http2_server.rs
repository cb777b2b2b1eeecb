//! HTTP/2 as a server: arbitrary bytes, however cut, never panic and never pile up.
#![no_main]

use std::time::Instant;

use adit::hbone::http2::{Event, Http2, Limits, Role};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: Vec<&[u8]>| {
    let now = Instant::now();
    let mut end = Http2::new(Role::Server, Limits::default(), now);
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    assert!(end.receive(preface, now).is_ok()); // the rest is more interesting
    for part in parts {
        let mut used = 0;
        while used < part.len() {
            let Ok((n, event)) = end.receive(&part[used..], now) else { return };
            match event {
                Some(Event::Request { id, request, .. }) => match request.is_connect {
                    true => end.respond(id, 200, &[], false),
                    false => end.respond(id, 405, &[], true),
                },
                Some(Event::Data { id, range, .. }) => {
                    end.release(id, range.len(), || 1_000);
                    end.finish(id);
                }
                _ => {}
            }
            used += n;
        }
        assert!(end.open_streams() <= 200);
        assert!(end.take_control().len() < 512 << 10);
    }
});
