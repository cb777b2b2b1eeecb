//! SPIFFE-ID §2: the corpus of what is an ID and what is not.

use adit::identity::{SpiffeId, TrustDomain};
use proptest::prelude::*;

use crate::spiffe_ids::{every_bad_byte, ids};

#[test]
fn grammar() {
    for (id, valid) in ids() {
        let text = std::str::from_utf8(&id).unwrap();
        assert_eq!(text.parse::<SpiffeId>().is_ok(), valid, "{text}");
    }
    // What is not text cannot even be asked for.
    for id in every_bad_byte() {
        let text = std::str::from_utf8(&id);
        assert!(text.is_err() || text.unwrap().parse::<SpiffeId>().is_err(), "{id:x?}");
    }
}

#[test]
fn every_byte_outside_the_two_sets_is_refused() {
    for byte in 0..=255_u8 {
        let c = char::from(byte);
        let in_path = c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let in_domain = in_path && !c.is_ascii_uppercase();
        let id = |text: String| text.parse::<SpiffeId>().is_ok();
        assert_eq!(id(format!("spiffe://td/a{c}b")), in_path || c == '/', "path {byte:#x}");
        // After a slash the rest is a path.
        assert_eq!(id(format!("spiffe://a{c}b/x")), in_domain || c == '/', "domain {byte:#x}");
        assert_eq!(format!("a{c}b").parse::<TrustDomain>().is_ok(), in_domain, "{byte:#x}");
    }
}

#[test]
fn parts() {
    let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    assert_eq!(id.principal(), "cluster.local/ns/shop/sa/web");
    assert_eq!((id.trust_domain().as_str(), id.path()), ("cluster.local", "/ns/shop/sa/web"));
    assert_eq!(id.kubernetes(), Some(("shop", "web")));
    for other in
        ["spiffe://td", "spiffe://td/ns/a", "spiffe://td/ns/a/sa/b/c", "spiffe://td/ns/a/b/sa/c"]
    {
        assert_eq!(other.parse::<SpiffeId>().unwrap().kubernetes(), None, "{other}");
    }
}

proptest! {
    #[test]
    fn never_panics_and_prints_what_it_parsed(text in "(spiffe://)?[a-zA-Z0-9._/%:-]{0,60}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn any_text_is_safe(text in ".*") {
        let _ = text.parse::<SpiffeId>();
        let _ = text.parse::<TrustDomain>();
    }
}
