//! HTTP/2 as a client: arbitrary bytes, however cut, never panic and never pile up.
#![no_main]

use std::time::Instant;

use adit::hbone::http2::{Event, Http2, Limits, Role};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: Vec<&[u8]>| {
    let now = Instant::now();
    let mut end = Http2::new(Role::Client, Limits::default(), now);
    let preface: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    assert!(end.receive(preface, now).is_ok()); // the rest is more interesting
    (0..3).for_each(|_| assert!(end.open("a:1", &[]).is_some()));
    for part in parts {
        let mut used = 0;
        while used < part.len() {
            let Ok((n, event)) = end.receive(&part[used..], now) else { return };
            match event {
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
