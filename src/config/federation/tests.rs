use std::path::PathBuf;

use super::*;
use crate::config::parse;

const MESH: &str = "trustDomain: td
node: a
ca: { embedded: { dir: /ca } }
federation:
  stateDir: /var/lib/adit/federation
  trustDomains:
  - name: web.td
    bundleEndpoint: { url: 'https://web.td.example/bundle', profile: https_web, roots: /roots.pem }
  - name: own.td
    bundleEndpoint: { url: 'https://10.0.0.1:8443/', profile: https_spiffe, endpointId: spiffe://own.td/ep, bundle: /own.json }
  - name: by-web.td
    bundleEndpoint: { url: 'https://10.0.0.1:8444/', profile: https_spiffe, endpointId: spiffe://web.td/ep }
  - { name: file.td, bundleFile: /file.json }
  serve:
    listen: 0.0.0.0:8443
    profile: https_spiffe
    oidc: { issuer: 'https://oidc.example/td', listen: 127.0.0.1:8080 }
workloads:
- { name: web, addresses: [10.77.0.1], node: a }
- { name: db, trustDomain: web.td, addresses: [10.77.0.2], node: b }
";

#[test]
fn address_profile_and_trust_domain_are_three_statements() {
    let checked = parse("m", MESH).unwrap();
    let federation = &checked.federation;
    let names: Vec<_> =
        federation.trust_domains.iter().map(|r| r.trust_domain.to_string()).collect();
    assert_eq!(names, ["web.td", "own.td", "by-web.td", "file.td"]);
    assert_eq!(federation.trust_domains[3].from, BundleFrom::File("/file.json".into()));
    assert_eq!(federation.state_dir, Some(PathBuf::from("/var/lib/adit/federation")));
    let served = federation.serve.bundle.clone().unwrap();
    let id = "spiffe://td/adit/bundle-endpoint".parse().unwrap();
    assert_eq!((served.path.as_str(), served.proof), ("/", Proof::Spiffe(id)));
    let oidc = federation.serve.oidc.clone().unwrap();
    assert_eq!(
        (oidc.issuer.to_string().as_str(), oidc.certificate),
        ("https://oidc.example/td", None)
    );
    let db = checked.mesh.workloads.iter().find(|w| &*w.uid == "default/db").unwrap();
    assert_eq!(db.id().as_str(), "spiffe://web.td/ns/default/sa/default");
}

#[test]
fn what_is_missing_inferred_or_of_the_other_profile_is_a_fault() {
    for (from, to, expected) in [
        ("profile: https_web, roots", "roots", "bundleEndpoint: profile is missing"),
        ("https://web.td.example/bundle", "http://web.td.example", "must begin with https://"),
        ("https://web.td.example/bundle", "https://u@web.td.example", "must not have a user"),
        (
            "roots: /roots",
            "bundle: /roots",
            "bundleEndpoint.bundle: is only for profile https_spiffe",
        ),
        (
            "roots: /roots",
            "endpointId: spiffe://x/y, roots: /roots",
            "is only for profile https_spiffe",
        ),
        ("bundle: /own", "roots: /own", "bundleEndpoint.roots: is only for profile https_web"),
        (", bundle: /own.json", "", "the endpoint shows an SVID of own.td"),
        ("endpointId: spiffe://own.td/ep, ", "", "endpointId is missing"),
        ("spiffe://own.td/ep", "spiffe://own.td", "has no path"),
        ("spiffe://web.td/ep", "spiffe://other.td/ep", "the endpoint shows an SVID of other.td"),
        ("name: web.td", "name: td", "td is adit's own trust domain"),
        ("name: own.td", "name: web.td", "web.td already exists"),
        ("bundleFile: /file.json", "x: y", "trustDomains[3].x: unknown key"),
        ("bundleFile: /file.json ", "", "expected either bundleEndpoint or bundleFile"),
        ("profile: https_spiffe\n", "profile: https_web\n", "serve: certificate is missing"),
        ("profile: https_spiffe\n", "profile: https_spiffe\n    path: b\n", "must begin with /"),
        ("profile: https_spiffe\n", "profile: https_spiffe\n    id: spiffe://x/y\n", "not in td"),
        ("listen: 0.0.0.0:8443\n    ", "", "serve.profile: is only for the bundle endpoint"),
        ("https://oidc.example/td", "http://oidc.example", "is not an https URL"),
        ("node: b", "node: a", "has identities of td only"),
        ("trustDomain: web.td", "trustDomain: Web", "workloads[1].trustDomain"),
    ] {
        let text = MESH.replace(from, to);
        assert_ne!(text, MESH, "{from}");
        match parse("m", &text) {
            Ok(_) => panic!("{from} → {to} was taken"),
            Err(faults) => assert!(faults.to_string().contains(expected), "{to}: {faults}"),
        }
    }
}
