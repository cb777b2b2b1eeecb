//! A peer's certificate chain: arbitrary bytes never panic and never verify.
#![no_main]

use adit::identity::{BundleSet, Purpose, parse_leaf, verify_svid};
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::{CertificateDer, UnixTime};

fuzz_target!(|data: &[u8]| {
    let (first, rest) = data.split_at(data.len() / 2);
    let chain = [CertificateDer::from(data), first.into(), rest.into()];
    let _ = parse_leaf(&chain[0]);
    assert!(verify_svid(&chain, &BundleSet::default(), UnixTime::now(), Purpose::Client).is_err());
});
