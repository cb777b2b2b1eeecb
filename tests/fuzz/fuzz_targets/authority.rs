//! `:authority`, `forwarded` and SPIFFE IDs: what parses prints as itself.
#![no_main]

use adit::{identity::SpiffeId, hbone::connect::{Authority, forwarded_host}};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(authority) = text.parse::<Authority>() {
        assert_eq!(authority.to_string().parse(), Ok(authority));
    }
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.as_str(), text);
    }
    assert!(forwarded_host(text).is_none_or(|host| host.len() <= 253));
});
