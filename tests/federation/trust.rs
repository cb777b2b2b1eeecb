//! Which trust domain is known from where, and for how long.

use std::sync::Arc;

use adit::{
    identity::{BundleSet, TrustBundle},
    spiffe_api::federation::{BundleFrom, Relation},
};

use crate::endpoint::{Endpoint, Foreign, Ours, by_svid, document};

#[tokio::test]
async fn one_bundle_per_trust_domain_and_never_merged() {
    let (other, theirs) = (Foreign::new("other.td"), Foreign::new("other.td"));
    let third = Foreign::new("third.td");
    let ours = Ours::new(None);
    let own = ours.set();
    // The source gives foreign ones too: what the file names is known from there only.
    let mut from_source: BundleSet = own.as_ref().clone();
    from_source.insert(theirs.ca.bundle());
    from_source.insert(third.ca.bundle());
    ours.source.send_replace(Arc::new(from_source));
    ours.until("followed", |o| o.set().iter().count() == 3).await;
    let file = other.bundle_file(1);
    let relation = Relation { trust_domain: other.domain.clone(), from: BundleFrom::File(file) };
    ours.federation.apply(std::slice::from_ref(&relation));
    assert_eq!(ours.bundle("other.td").unwrap().authorities, other.ca.bundle().authorities);
    assert_eq!(ours.bundle("third.td"), Some(third.ca.bundle()));
    assert_eq!(ours.bundle("td").as_ref(), own.get(&"td".parse().unwrap()));
    let now = ours.set();
    ours.federation.apply(&[relation]);
    assert!(Arc::ptr_eq(&ours.set(), &now), "the same file again changes nothing");
    // An endpoint that has not answered is no reason to believe the source.
    let silent = by_svid(&other.domain, "https://127.0.0.1:1/", third.id("ep"), "/none".as_ref());
    ours.federation.apply(&[]);
    ours.federation.apply(&[silent]);
    assert_eq!(ours.bundle("other.td"), None);
    ours.federation.apply(&[]);
    assert_eq!(ours.bundle("other.td"), Some(theirs.ca.bundle()), "the source's again");
}

#[tokio::test]
async fn our_own_trust_domain_is_never_overridden() {
    let fake = Foreign::new("td");
    let ours = Ours::new(None);
    let own = ours.set();
    let from = BundleFrom::File(fake.bundle_file(1));
    ours.federation.apply(&[Relation { trust_domain: fake.domain.clone(), from }]);
    assert!(Arc::ptr_eq(&ours.set(), &own));
}

#[tokio::test]
async fn a_trust_domain_that_is_taken_out_is_forgotten_at_once() {
    let other = Foreign::new("other.td");
    let state = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(other.svid("ep")).await;
    endpoint.gives(&other.document(5));
    let ours = Ours::new(Some(state.path()));
    let own = ours.set();
    let first = other.bundle_file(1);
    let at = by_svid(&other.domain, &endpoint.url("/"), other.id("ep"), &first);
    ours.federation.apply(std::slice::from_ref(&at));
    ours.until("fetched", |o| o.sequence("other.td") == Some(5)).await;
    assert!(state.path().join("other.td.json").exists());
    ours.federation.apply(&[]);
    assert!(Arc::ptr_eq(&ours.set(), &own));
    assert!(!state.path().join("other.td.json").exists());
    assert!(!ours.federation.refresh_now(&other.domain));
    // Put in again, it begins anew: a lower sequence is right then.
    endpoint.gives(&other.document(2));
    ours.federation.apply(&[at]);
    ours.until("fetched", |o| o.sequence("other.td") == Some(2)).await;
}

#[tokio::test]
async fn the_last_good_bundle_survives_a_restart_and_its_sequence_too() {
    let other = Foreign::new("other.td");
    let next = Foreign::new("other.td");
    let state = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(other.svid("ep")).await;
    endpoint.gives(&document(&[&other, &next], 5));
    let first = other.bundle_file(1);
    let at = by_svid(&other.domain, &endpoint.url("/"), other.id("ep"), &first);
    let ours = Ours::new(Some(state.path()));
    ours.federation.apply(std::slice::from_ref(&at));
    ours.until("fetched", |o| o.sequence("other.td") == Some(5)).await;
    ours.tasks.cut();
    // A new process while the endpoint has trouble.
    endpoint.says("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    let ours = Ours::new(Some(state.path()));
    ours.federation.apply(std::slice::from_ref(&at));
    assert_eq!(ours.sequence("other.td"), Some(5));
    assert_eq!(ours.bundle("other.td").unwrap().authorities.len(), 2);
    ours.until_error("other.td", "answered 503").await;
    endpoint.gives(&other.document(4));
    ours.refresh("other.td");
    ours.until_error("other.td", "went back from 5 to 4").await;
    ours.tasks.cut();
    // What was fetched from another endpoint is not taken, nor what others can write.
    let moved = by_svid(&other.domain, "https://127.0.0.1:1/", other.id("ep"), &first);
    let ours = Ours::new(Some(state.path()));
    ours.federation.apply(&[moved]);
    assert_eq!(ours.sequence("other.td"), Some(1));
    ours.tasks.cut();
    use std::os::unix::fs::PermissionsExt;
    let file = state.path().join("other.td.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let ours = Ours::new(Some(state.path()));
    ours.federation.apply(&[at]);
    assert_eq!(ours.sequence("other.td"), Some(1));
}

/// Whoever lost all its authorities gives out a new bundle by hand, as at the first visit.
#[tokio::test]
async fn a_first_bundle_that_is_replaced_counts_without_a_restart() {
    let (other, anew) = (Foreign::new("other.td"), Foreign::new("other.td"));
    let endpoint = Endpoint::start(other.svid("ep")).await;
    endpoint.gives(&other.document(7));
    let ours = Ours::new(None);
    let file = other.bundle_file(1);
    ours.federation.apply(&[by_svid(&other.domain, &endpoint.url("/"), other.id("ep"), &file)]);
    ours.until("fetched", |o| o.sequence("other.td") == Some(7)).await;
    endpoint.shows(anew.svid("ep"));
    endpoint.gives(&anew.document(2));
    ours.refresh("other.td");
    ours.until_error("other.td", "does not lead to the bundle").await;
    assert_eq!(ours.sequence("other.td"), Some(7));
    // Half a file changes nothing.
    let whole = std::fs::read(anew.bundle_file(1)).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(ours.sequence("other.td"), Some(7));
    std::fs::write(&file, whole).unwrap();
    ours.until("fetched anew", |o| o.sequence("other.td") == Some(2)).await;
}

#[tokio::test]
async fn an_edited_endpoint_keeps_the_bundle_until_the_new_one_answers() {
    let other = Foreign::new("other.td");
    let (old, new) =
        (Endpoint::start(other.svid("ep")).await, Endpoint::start(other.svid("ep2")).await);
    old.gives(&other.document(5));
    new.gives(&other.document(2));
    let ours = Ours::new(None);
    let file = other.bundle_file(1);
    ours.federation.apply(&[by_svid(&other.domain, &old.url("/"), other.id("ep"), &file)]);
    ours.until("fetched", |o| o.sequence("other.td") == Some(5)).await;
    let gone = other.dir.path().join("gone.json");
    ours.federation.apply(&[by_svid(&other.domain, &new.url("/"), other.id("ep2"), &gone)]);
    assert_eq!(ours.sequence("other.td"), Some(5));
    ours.until("fetched", |o| o.sequence("other.td") == Some(2)).await;
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes_and_never_half() {
    let other = Foreign::new("other.td");
    let ours = Ours::new(None);
    let file = other.bundle_file(5);
    let from = BundleFrom::File(file.clone());
    ours.federation.apply(&[Relation { trust_domain: other.domain.clone(), from }]);
    assert_eq!(ours.sequence("other.td"), Some(5));
    std::fs::write(&file, "{\"keys\": [").unwrap();
    ours.until_error("other.td", "is not a bundle").await;
    assert_eq!(ours.sequence("other.td"), Some(5));
    // An operator may go back.
    std::fs::write(&file, other.document(3).to_string()).unwrap();
    ours.until("read", |o| o.sequence("other.td") == Some(3)).await;
    let pem = std::fs::read(other.dir.path().join("ca/root.pem")).unwrap();
    std::fs::write(&file, pem).unwrap();
    ours.until("read", |o| o.sequence("other.td").is_none()).await;
    let expected = TrustBundle::new(other.domain.clone(), other.ca.bundle().authorities);
    assert_eq!(ours.bundle("other.td"), Some(expected));
}
