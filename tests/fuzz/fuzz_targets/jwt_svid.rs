//! Tokens: arbitrary texts are refused, as no signature of theirs can be right.
#![no_main]

use std::time::SystemTime;

use adit::identity::{BundleSet, JwtAuthority, PublicKey, TrustBundle, validate_jwt_svid};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8], &[u8])| {
    let (text, claims, signature) = input;
    let mut bundle = TrustBundle::new("td".parse().expect("a trust domain"), Vec::new());
    let mut n = vec![0xff; 256];
    n[255] = 0xfd;
    let key = PublicKey::Rsa { n, e: vec![1, 0, 1] }.to_spki();
    bundle.jwt_authorities.push(JwtAuthority { key_id: "k".into(), public_key: key.into() });
    let bundles: BundleSet = [bundle].into_iter().collect();
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let head = encode(br#"{"alg":"RS256","kid":"k"}"#);
    let token = format!("{head}.{}.{}", encode(claims), encode(signature));
    for token in [text, &token] {
        assert!(validate_jwt_svid(token, "a", &bundles, SystemTime::UNIX_EPOCH).is_err());
    }
});
