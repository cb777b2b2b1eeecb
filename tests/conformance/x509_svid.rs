//! X509-SVID §2–§5: the corpus of leaves and chains, made here, judged by the one verifier
//! that both sides of every handshake use.

use std::time::Duration;

use adit::identity::{BundleSet, Purpose, SvidError, TrustBundle, TrustDomain, verify_svid};
use pki_types::{CertificateDer, UnixTime};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer,
    KeyPair, KeyUsagePurpose as Ku, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
    SignatureAlgorithm,
};
use time::OffsetDateTime;

use crate::lint;

pub(crate) const ID: &str = "spiffe://td/ns/shop/sa/web";

pub(crate) struct Ca {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

pub(crate) fn ca_params(constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "some CA");
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![Ku::KeyCertSign];
    params
}

pub(crate) fn root() -> Ca {
    let key = KeyPair::generate().unwrap();
    let params = ca_params(BasicConstraints::Unconstrained);
    let der = params.self_signed(&key).unwrap().der().clone();
    Ca { der, issuer: Issuer::new(params, key) }
}

pub(crate) fn intermediate(above: &Ca, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = ca_params(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "intermediate");
    change(&mut params);
    let der = params.signed_by(&key, &above.issuer).unwrap().der().clone();
    Ca { der, issuer: Issuer::new(params, key) }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = now() - Duration::from_secs(10);
    params.not_after = now() + Duration::from_secs(3600);
    params.subject_alt_names = vec![uri(ID)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![Ku::DigitalSignature];
    params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
    params
}

pub(crate) fn leaf(
    ca: &Ca,
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateDer<'static> {
    leaf_with(ca, &rcgen::PKCS_ECDSA_P256_SHA256, change)
}

fn leaf_with(
    ca: &Ca,
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateDer<'static> {
    let mut params = leaf_params();
    change(&mut params);
    let key = KeyPair::generate_for(algorithm).unwrap();
    params.signed_by(&key, &ca.issuer).unwrap().der().clone()
}

pub(crate) fn bundle(trust_domain: &str, roots: &[&Ca]) -> TrustBundle {
    let authorities = roots.iter().map(|r| r.der.clone()).collect();
    TrustBundle::new(trust_domain.parse().unwrap(), authorities)
}

fn judge(chain: &[CertificateDer<'_>], bundles: &BundleSet) -> Result<String, SvidError> {
    let now = UnixTime::now();
    let verdict = |purpose| verify_svid(chain, bundles, now, purpose);
    let verdict = verdict(Purpose::Client).and_then(|_| verdict(Purpose::Server));
    lint::agrees_on_chain(chain, bundles, now, &verdict);
    verdict.map(|id| id.to_string())
}

/// Judges one leaf that differs from a good one by `change`.
fn judge_leaf(change: impl FnOnce(&mut CertificateParams)) -> Result<String, SvidError> {
    let root = root();
    let bundles = [bundle("td", &[&root])].into_iter().collect();
    judge(&[leaf(&root, change)], &bundles)
}

#[test]
fn accepted() {
    type Change = fn(&mut CertificateParams);
    let cases: [(&str, Change); 4] = [
        ("as it should be", |_| ()),
        ("DNS names beside the URI", |p| {
            p.subject_alt_names.push(SanType::DnsName("web.shop".try_into().unwrap()));
        }),
        ("no extended key usage", |p| p.extended_key_usages.clear()),
        ("no basic constraints", |p| p.is_ca = IsCa::NoCa),
    ];
    for (name, change) in cases {
        assert_eq!(judge_leaf(change).as_deref(), Ok(ID), "{name}");
    }
    let root = root();
    let bundles = [bundle("td", &[&root])].into_iter().collect();
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        assert!(judge(&[leaf_with(&root, algorithm, |_| ())], &bundles).is_ok());
    }
    let middle = intermediate(&root, |_| ());
    assert!(judge(&[leaf(&middle, |_| ()), middle.der.clone()], &bundles).is_ok());
}

#[test]
fn a_leaf_that_breaks_a_rule_is_refused_with_that_rule() {
    type Change = fn(&mut CertificateParams);
    type Expected = fn(&SvidError) -> bool;
    let cases: [(&str, Change, Expected); 14] = [
        ("no URI", |p| p.subject_alt_names.clear(), |e| *e == SvidError::NoUriSan),
        (
            "two SPIFFE IDs",
            |p| p.subject_alt_names.push(uri("spiffe://td/b")),
            |e| matches!(e, SvidError::MultipleUriSans { count: 2 }),
        ),
        (
            "a SPIFFE ID and a page",
            |p| p.subject_alt_names.push(uri("https://td/b")),
            |e| matches!(e, SvidError::MultipleUriSans { .. }),
        ),
        (
            "the same twice",
            |p| p.subject_alt_names.push(uri(ID)),
            |e| matches!(e, SvidError::MultipleUriSans { .. }),
        ),
        (
            "not spiffe",
            |p| p.subject_alt_names = vec![uri("https://td/b")],
            |e| matches!(e, SvidError::NotSpiffeId(_)),
        ),
        (
            "no path",
            |p| p.subject_alt_names = vec![uri("spiffe://td")],
            |e| matches!(e, SvidError::NoPath(_)),
        ),
        (
            "a CA",
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            |e| *e == SvidError::CaAsLeaf,
        ),
        (
            "keyCertSign",
            |p| p.key_usages.push(Ku::KeyCertSign),
            |e| matches!(e, SvidError::KeyUsage(_)),
        ),
        ("cRLSign", |p| p.key_usages.push(Ku::CrlSign), |e| matches!(e, SvidError::KeyUsage(_))),
        (
            "no digitalSignature",
            |p| p.key_usages = vec![Ku::KeyEncipherment],
            |e| matches!(e, SvidError::KeyUsage(_)),
        ),
        ("no key usage", |p| p.key_usages.clear(), |e| matches!(e, SvidError::KeyUsage(_))),
        (
            "expired",
            |p| p.not_after = now() - Duration::from_secs(2),
            |e| matches!(e, SvidError::Expired { .. }),
        ),
        (
            "not yet valid",
            |p| p.not_before = now() + Duration::from_secs(60),
            |e| matches!(e, SvidError::NotYetValid { .. }),
        ),
        (
            "for e-mail only",
            |p| p.extended_key_usages = vec![Eku::EmailProtection],
            |e| *e == SvidError::Purpose,
        ),
    ];
    for (name, change, expected) in cases {
        let error = judge_leaf(change).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
    }
}

#[test]
fn trust_comes_from_the_bundle_of_the_leafs_own_domain_only() {
    let (own, other) = (root(), root());
    let good = leaf(&own, |_| ());
    let set = |bundles: Vec<TrustBundle>| bundles.into_iter().collect::<BundleSet>();
    // Another domain's root signs an ID of ours, and is trusted, but for its own domain.
    let forged = leaf(&other, |_| ());
    let both = set(vec![bundle("td", &[&own]), bundle("other", &[&other])]);
    assert!(matches!(judge(&[forged], &both), Err(SvidError::Untrusted(_))));
    let elsewhere = set(vec![bundle("other", &[&own])]);
    let td: TrustDomain = "td".parse().unwrap();
    assert_eq!(
        judge(std::slice::from_ref(&good), &elsewhere),
        Err(SvidError::UnknownTrustDomain(td))
    );
    assert!(matches!(
        judge(std::slice::from_ref(&good), &set(vec![bundle("td", &[])])),
        Err(SvidError::Untrusted(_))
    ));
    assert_eq!(judge(&[], &both), Err(SvidError::NoCertificate));
    assert!(matches!(judge(&vec![good.clone(); 9], &both), Err(SvidError::ChainTooLong(9))));
    // Old and new root are trusted together.
    assert!(judge(&[good], &set(vec![bundle("td", &[&other, &own])])).is_ok());
}

#[test]
fn intermediates_must_be_authorities() {
    type Change = fn(&mut CertificateParams);
    let root = root();
    let bundles = [bundle("td", &[&root])].into_iter().collect();
    let cases: [(&str, Change); 2] = [
        ("not a CA", |p| p.is_ca = IsCa::ExplicitNoCa),
        ("no keyCertSign", |p| p.key_usages = vec![Ku::DigitalSignature]),
    ];
    for (name, change) in cases {
        let middle = intermediate(&root, change);
        let chain = [leaf(&middle, |_| ()), middle.der.clone()];
        assert!(matches!(judge(&chain, &bundles), Err(SvidError::Untrusted(_))), "{name}");
    }
    let first = intermediate(&root, |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let second = intermediate(&first, |_| ());
    let chain = [leaf(&second, |_| ()), second.der.clone(), first.der.clone()];
    assert!(matches!(judge(&chain, &bundles), Err(SvidError::Untrusted(_))), "path length");
}

#[test]
fn bytes_after_the_certificate_are_refused() {
    let root = root();
    let bundles = [bundle("td", &[&root])].into_iter().collect();
    let mut der = leaf(&root, |_| ()).to_vec();
    der.push(0);
    assert!(matches!(judge(&[der.into()], &bundles), Err(SvidError::Encoding(_))));
}

/// No clock is forgiven; the first and the last second are whole (RFC 5280 §4.1.2.5).
#[test]
fn the_clock_that_counts_is_the_one_given_to_the_second() {
    let root = root();
    let middle = intermediate(&root, |p| {
        (p.not_before, p.not_after) = (at(1_999_990), at(2_003_000));
    });
    let bundles: BundleSet = [bundle("td", &[&root])].into_iter().collect();
    let valid = |p: &mut CertificateParams| {
        (p.not_before, p.not_after) = (at(2_000_000), at(2_003_600));
    };
    let direct = [leaf(&root, valid)];
    let longer_than_its_issuer = [leaf(&middle, valid), middle.der.clone()];
    let cases: [(&[CertificateDer<'_>], u64, &str); 8] = [
        (&direct, 1_999_999, "not valid yet, for another 1 s"),
        (&direct, 2_000_000, ""),
        (&direct, 2_003_600, ""),
        (&direct, 2_003_601, "expired 1 s ago"),
        (&direct, 2_007_200, "expired 3600 s ago"),
        (&longer_than_its_issuer, 2_003_000, ""),
        (&longer_than_its_issuer, 2_003_001, "CertExpired"),
        (&longer_than_its_issuer, 2_003_601, "expired 1 s ago"),
    ];
    for (chain, now, expected) in cases {
        let clock = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let said = match verify_svid(chain, &bundles, clock, Purpose::Client) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{now}: {said}");
    }
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

proptest! {
    #[test]
    fn mutated_certificates_never_panic_and_never_pass_as_others(at in 0usize..600, byte: u8) {
        let root = root();
        let bundles = [bundle("td", &[&root])].into_iter().collect();
        let mut der = leaf(&root, |_| ()).to_vec();
        let at = at % der.len();
        der[at] = byte;
        if let Ok(id) = judge(&[der.into()], &bundles) {
            prop_assert_eq!(id, ID);
        }
    }
}
