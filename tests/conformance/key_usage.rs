//! Issuers that leave key usage out of their leaves, as Cilium's agent does: where they are named,
//! that one rule of X509-SVID (§4.3) is not applied to what they have signed, and all others are.

use adit::identity::{
    BundleSet, KeyUsageRule, Purpose, SvidError, TrustBundle, parse_leaf, verify_svid,
};
use pki_types::{CertificateDer, UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose as Eku, IsCa,
    KeyUsagePurpose as Ku, SanType,
};

use crate::x509_svid::{Ca, ID, bundle, leaf, root};

fn judge(chain: &[CertificateDer<'_>], bundles: &[TrustBundle]) -> Result<(), SvidError> {
    let bundles: BundleSet = bundles.iter().cloned().collect();
    let verdict = |purpose| verify_svid(chain, &bundles, UnixTime::now(), purpose).map(drop);
    verdict(Purpose::Client).and_then(|()| verdict(Purpose::Server))
}

fn lenient(bundle: TrustBundle) -> TrustBundle {
    TrustBundle { key_usage: KeyUsageRule::Optional, ..bundle }
}

/// As Cilium's agent makes a leaf: neither usage, and no basic constraints.
fn bare(leaf: &mut CertificateParams) {
    (leaf.key_usages, leaf.extended_key_usages) = Default::default();
    leaf.is_ca = IsCa::NoCa;
}

fn bare_leaf(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    leaf(ca, |params| {
        bare(params);
        change(params);
    })
}

#[test]
fn a_leaf_without_key_usage_is_refused_unless_its_issuer_is_named() {
    let ca = root();
    let (own, chain) = (bundle("td", &[&ca]), [bare_leaf(&ca, |_| {})]);
    let missing = Err(SvidError::KeyUsage("is missing"));
    assert_eq!(judge(&chain, std::slice::from_ref(&own)), missing);
    assert_eq!(judge(&chain, &[lenient(own)]), Ok(()));
    // Who reads a leaf without a bundle tolerates nothing.
    assert_eq!(parse_leaf(&chain[0]).map(drop), missing);
}

#[test]
fn what_such_an_issuer_says_of_key_usage_must_be_right() {
    let ca = root();
    let bundles = [lenient(bundle("td", &[&ca]))];
    for (usages, fault) in [
        (vec![Ku::DigitalSignature], None),
        (vec![Ku::KeyEncipherment], Some("lacks digitalSignature")),
        (vec![Ku::DigitalSignature, Ku::KeyCertSign], Some("has keyCertSign")),
        (vec![Ku::DigitalSignature, Ku::CrlSign], Some("has cRLSign")),
    ] {
        let chain = [bare_leaf(&ca, |leaf| leaf.key_usages = usages)];
        let expected = fault.map_or(Ok(()), |what| Err(SvidError::KeyUsage(what)));
        assert_eq!(judge(&chain, &bundles), expected, "{fault:?}");
    }
}

#[test]
fn every_other_rule_holds_for_such_an_issuer() {
    let (ca, other) = (root(), root());
    let bundles = [lenient(bundle("td", &[&ca])), bundle("other", &[&other])];
    let names = |uris: &[&str]| -> Vec<SanType> {
        uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect()
    };
    let refused = |change: &dyn Fn(&mut CertificateParams)| {
        judge(&[bare_leaf(&ca, change)], &bundles).unwrap_err()
    };
    assert_eq!(
        refused(&|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        SvidError::CaAsLeaf
    );
    let purpose = refused(&|leaf| leaf.extended_key_usages = vec![Eku::CodeSigning]);
    assert_eq!(purpose, SvidError::Purpose);
    let foreign = refused(&|leaf| leaf.subject_alt_names = names(&["spiffe://other/ns/a/sa/b"]));
    assert!(matches!(foreign, SvidError::KeyUsage(_)), "the other domain's own rule: {foreign}");
    let both = [bundles[0].clone(), lenient(bundle("other", &[&other]))];
    let of_other = |leaf: &mut CertificateParams| {
        leaf.subject_alt_names = names(&["spiffe://other/ns/a/sa/b"]);
    };
    let untrusted = judge(&[bare_leaf(&ca, of_other)], &both).unwrap_err();
    assert!(matches!(untrusted, SvidError::Untrusted(_)), "signed by another's: {untrusted}");
    let unknown = refused(&|leaf| leaf.subject_alt_names = names(&["spiffe://third/ns/a/sa/b"]));
    assert!(matches!(unknown, SvidError::KeyUsage(_)), "{unknown}");
    let two = refused(&|leaf| leaf.subject_alt_names = names(&[ID, ID]));
    assert_eq!(two, SvidError::MultipleUriSans { count: 2 });
    let strangers = judge(&[bare_leaf(&other, |_| {})], &bundles).unwrap_err();
    assert!(matches!(strangers, SvidError::Untrusted(_)), "{strangers}");
    // It cannot stand above another either.
    let above = bare_leaf(&ca, |_| {});
    let below = judge(&[bare_leaf(&other, |_| {}), above], &bundles).unwrap_err();
    assert!(matches!(below, SvidError::Untrusted(_)), "{below}");
}

/// A leaf of a domain that is trusted, but not with this: its conforming leaves are accepted, and
/// none without key usage.
#[test]
fn the_tolerance_is_of_one_trust_domain() {
    let (ca, other) = (root(), root());
    let bundles = [lenient(bundle("td", &[&ca])), bundle("other", &[&other])];
    let of_other = |leaf: &mut CertificateParams| {
        leaf.subject_alt_names = vec![SanType::URI("spiffe://other/ns/a/sa/b".try_into().unwrap())];
    };
    assert_eq!(judge(&[leaf(&other, of_other)], &bundles), Ok(()));
    let missing = Err(SvidError::KeyUsage("is missing"));
    assert_eq!(judge(&[bare_leaf(&other, of_other)], &bundles), missing);
}
