//! DNS queries of applications: refused or answered, and never with more than a client takes.
#![no_main]

use adit::proxy::dns::message::{Received, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match read(data) {
        Received::Nothing => {}
        Received::Refused(reply) => assert!(reply.len() <= 512),
        Received::Question(question) => {
            let limit = question.datagram();
            let addresses = vec!["10.0.0.1".parse().unwrap(); 200];
            assert!(question.answered(&addresses, Some(1), limit).len() <= limit);
            assert!(question.forwarded(data.to_vec(), limit).len() <= limit);
        }
    }
});
