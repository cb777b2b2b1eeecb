//! What is fetched, from whom, and what it is checked against.

use adit::spiffe_api::federation::{BundleFrom, Profile, Relation};
use rcgen::{CertificateParams, IsCa, KeyPair};

use crate::endpoint::{Endpoint, Foreign, Ours, Shown, by_svid, document, redirect};

#[tokio::test]
async fn the_first_visit_is_checked_by_the_given_bundle_and_later_ones_by_the_latest() {
    let other = Foreign::new("other.td");
    let endpoint = Endpoint::start(other.svid("ep")).await;
    endpoint.gives(&other.document(7));
    let ours = Ours::new(None);
    let first = other.bundle_file(1);
    ours.federation.apply(&[by_svid(&other.domain, &endpoint.url("/"), other.id("ep"), &first)]);
    assert_eq!(ours.sequence("other.td"), Some(1), "trusted before anything is fetched");
    ours.until("fetched", |o| o.sequence("other.td") == Some(7)).await;
    // Its CA changes: the new root is published, then it shows an SVID of the new root.
    let next = Foreign::new("other.td");
    endpoint.gives(&document(&[&other, &next], 8));
    ours.refresh("other.td");
    ours.until("both roots", |o| o.sequence("other.td") == Some(8)).await;
    endpoint.shows(next.svid("ep"));
    endpoint.gives(&next.document(9));
    ours.refresh("other.td");
    ours.until("the new root", |o| o.sequence("other.td") == Some(9)).await;
    assert_eq!(ours.bundle("other.td").unwrap().authorities, next.ca.bundle().authorities);
    // The old one is no longer trusted.
    endpoint.shows(other.svid("ep"));
    endpoint.gives(&other.document(10));
    ours.refresh("other.td");
    ours.until_error("other.td", "is not trusted").await;
    assert_eq!(ours.sequence("other.td"), Some(9));
}

#[tokio::test]
async fn an_endpoint_of_another_trust_domain_is_checked_by_that_ones_bundle() {
    let (host, guest) = (Foreign::new("host.td"), Foreign::new("guest.td"));
    let endpoint = Endpoint::start(host.svid("ep")).await;
    endpoint.gives(&guest.document(3));
    let ours = Ours::new(None);
    let profile = Profile::Spiffe { endpoint_id: host.id("ep"), bundle: None };
    let url = endpoint.url("/guest").parse().unwrap();
    let relation = Relation {
        trust_domain: guest.domain.clone(),
        from: BundleFrom::Endpoint { url, profile },
    };
    ours.federation.apply(std::slice::from_ref(&relation));
    ours.until_error("guest.td", "an SVID of host.td, of which adit has no bundle").await;
    let of_host = host.bundle_file(1);
    let known = Relation { trust_domain: host.domain, from: BundleFrom::File(of_host) };
    ours.federation.apply(&[relation, known]);
    ours.refresh("guest.td");
    ours.until("fetched", |o| o.sequence("guest.td") == Some(3)).await;
}

/// A certificate of the public kind, and the file with its root.
fn web(name: &str, dir: &std::path::Path) -> (Shown, std::path::PathBuf) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a root".into()]).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.into()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let path = dir.join(format!("{name}.pem"));
    std::fs::write(&path, root.pem()).unwrap();
    let key = pki_types::PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into());
    (Shown { chain: vec![leaf.der().clone()], key }, path)
}

#[tokio::test]
async fn https_web_goes_by_roots_and_host_name() {
    let other = Foreign::new("other.td");
    let (shown, roots) = web("127.0.0.1", other.dir.path());
    let (elsewhere, elsewhere_roots) = web("elsewhere.test", other.dir.path());
    let ours = Ours::new(None);
    let endpoint = Endpoint::start_with(elsewhere, &[&rustls::version::TLS12]).await;
    endpoint.gives(&other.document(1));
    let at = |roots: Option<std::path::PathBuf>| {
        let url = endpoint.url("/").parse().unwrap();
        let from = BundleFrom::Endpoint { url, profile: Profile::Web { roots } };
        [Relation { trust_domain: other.domain.clone(), from }]
    };
    ours.federation.apply(&at(Some(elsewhere_roots)));
    ours.until_error("other.td", "is not valid for ").await;
    endpoint.shows(shown);
    ours.federation.apply(&at(None));
    ours.until_error("other.td", "UnknownIssuer").await;
    assert_eq!(ours.bundle("other.td"), None, "nobody is trusted until it has answered");
    ours.federation.apply(&at(Some(roots)));
    ours.until("fetched", |o| o.sequence("other.td") == Some(1)).await;
}

/// What `openssl req -x509` makes: a CA by its form, and nobody's but its own.
fn self_signed(dir: &std::path::Path) -> (Shown, std::path::PathBuf) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let own = params.self_signed(&key).unwrap();
    let path = dir.join("self-signed.pem");
    std::fs::write(&path, own.pem()).unwrap();
    let key = pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    (Shown { chain: vec![own.der().clone()], key }, path)
}

#[tokio::test]
async fn a_self_signed_ca_certificate_is_taken_where_it_is_the_root() {
    let other = Foreign::new("other.td");
    let (_, another) = self_signed(other.dir.path());
    std::fs::rename(&another, other.dir.path().join("another.pem")).unwrap();
    let another = other.dir.path().join("another.pem");
    let (shown, own) = self_signed(other.dir.path());
    let endpoint = Endpoint::start(shown).await;
    endpoint.gives(&other.document(1));
    let at = |roots: &std::path::Path| {
        let url = endpoint.url("/").parse().unwrap();
        let profile = Profile::Web { roots: Some(roots.to_owned()) };
        let from = BundleFrom::Endpoint { url, profile };
        [Relation { trust_domain: other.domain.clone(), from }]
    };
    let ours = Ours::new(None);
    ours.federation.apply(&at(&another));
    ours.until_error("other.td", "trust exactly this certificate").await;
    assert_eq!(ours.bundle("other.td"), None);
    ours.federation.apply(&at(&own));
    ours.until("fetched", |o| o.sequence("other.td") == Some(1)).await;
}

#[tokio::test]
async fn an_endpoint_with_tls_1_2_only_is_spoken_to() {
    let other = Foreign::new("other.td");
    let endpoint = Endpoint::start_with(other.svid("ep"), &[&rustls::version::TLS12]).await;
    endpoint.gives(&other.document(2));
    let ours = Ours::new(None);
    let first = other.bundle_file(1);
    ours.federation.apply(&[by_svid(&other.domain, &endpoint.url("/"), other.id("ep"), &first)]);
    ours.until("fetched", |o| o.sequence("other.td") == Some(2)).await;
}

#[tokio::test]
async fn redirects_are_followed_thrice_and_each_visit_begins_at_the_configured_address() {
    let other = Foreign::new("other.td");
    let mut chain = Vec::new();
    for _ in 0..5 {
        chain.push(Endpoint::start(other.svid("ep")).await);
    }
    for (from, to) in chain.iter().zip(&chain[1..]) {
        from.says(redirect(&to.url("/next")));
    }
    chain[3].gives(&other.document(5));
    let ours = Ours::new(None);
    let first = other.bundle_file(1);
    ours.federation.apply(&[by_svid(&other.domain, &chain[0].url("/"), other.id("ep"), &first)]);
    ours.until("fetched", |o| o.sequence("other.td") == Some(5)).await;
    ours.refresh("other.td");
    ours.until("visited again", |_| chain.iter().all(|e| e.visits() == 2 || e.visits() == 0)).await;
    chain[3].says(redirect(&chain[4].url("/")));
    chain[4].gives(&other.document(6));
    ours.refresh("other.td");
    ours.until_error("other.td", "redirects once more after 3 redirects").await;
    assert_eq!((ours.sequence("other.td"), chain[4].visits()), (Some(5), 0));
}
