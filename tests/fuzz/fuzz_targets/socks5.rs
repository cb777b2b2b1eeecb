//! SOCKS5 clients: arbitrary bytes never panic, and no more is read than one greeting and one
//! request have.
#![no_main]

use adit::proxy::ingress::socks5::{greeting, request};
use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut greets = data;
    let _ = greeting(&mut greets).now_or_never().expect("a slice never waits");
    assert!(data.len() - greets.len() <= 257);
    let mut asks = data;
    let asked = request(&mut asks).now_or_never().expect("a slice never waits");
    assert!(data.len() - asks.len() <= 262);
    if let Err(not) = asked {
        assert!(not.answer().len() <= 10);
    }
});
