//! PEM files: arbitrary bytes never panic, and no byte of a key comes back in an error.
#![no_main]

use adit::identity::pem;
use libfuzzer_sys::fuzz_target;

/// What a key would be written as; an error may name its line, never what it holds.
const SECRET: &str = "c2VjcmV0LXNlY3JldA";

fuzz_target!(|data: &[u8]| {
    let secret: Vec<u8> = [data, SECRET.as_bytes()].concat();
    for text in [data, &secret] {
        for why in [
            pem::certificates(text).err(),
            pem::crls(text).err(),
            pem::request(text).err(),
            pem::private_key(text).err(),
        ]
        .into_iter()
        .flatten()
        {
            assert!(!format!("{why} {why:?}").contains(SECRET));
        }
    }
});
