//! PROXY headers: arbitrary bytes never panic; a header is what it was, whatever follows it.
#![no_main]

use adit::roles::standalone::proxy_protocol::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(Some((length, ends))) = parse(data) else { return };
    assert!(length <= data.len());
    assert_eq!(parse(&data[..length]).ok().flatten(), Some((length, ends)));
    assert!(parse(&data[..length - 1]).is_err() || matches!(parse(&data[..length - 1]), Ok(None)));
});
