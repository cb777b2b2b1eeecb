//! Bundle documents: arbitrary bytes are read or refused, and what is read is written and read
//! again as itself.
#![no_main]

use adit::identity::{JwtAuthority, TrustBundle, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let td: TrustDomain = "td".parse().expect("a trust domain");
    if let Ok(bundle) = TrustBundle::from_document(td.clone(), data) {
        let written = bundle.to_document().to_string();
        let again = TrustBundle::from_document(td, written.as_bytes()).expect("our own document");
        assert_eq!(again.jwt_authorities, bundle.jwt_authorities);
        assert!(again.authorities.iter().all(|a| bundle.authorities.contains(a)));
    }
    if let Ok(authorities) = JwtAuthority::from_jwks(data) {
        assert!(authorities.len() <= adit::identity::MAX_KEYS);
    }
});
