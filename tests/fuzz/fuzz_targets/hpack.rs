//! HPACK: arbitrary blocks are read or refused, and what is read is encoded and read again.
#![no_main]

use adit::hbone::http2::hpack::{Decoder, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|blocks: Vec<&[u8]>| {
    let mut decoder = Decoder::default();
    for block in blocks {
        let (mut fields, mut again) = (Vec::new(), Vec::new());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let each = |name: &[u8], value: &[u8]| {
            if fields.len() < 100 {
                fields.push((text(name), text(value)));
            }
        };
        if decoder.decode(block, each).is_err() {
            return;
        }
        let mut encoded = Vec::new();
        fields.iter().for_each(|(name, value)| encode(&mut encoded, name, value));
        let read = Decoder::default().decode(&encoded, |n, v| again.push((text(n), text(v))));
        assert!(read.is_ok() && again == fields);
    }
});
