//! `adit svid lint` over the corpora: it fails what the verifiers refuse and nothing else, and it
//! names every fault at once, with its clause.

use std::time::{Duration, SystemTime};

use adit::identity::{
    BundleSet, JwtError, JwtSvid, Purpose, SpiffeId, SvidError,
    lint::{Finding, Given, Report, Verdict, authority, bundle_document, jwt_svid, x509_svid},
    verify_svid,
};
use pki_types::{CertificateDer, UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose as Eku, IsCa,
    KeyUsagePurpose as Ku, SanType,
};

use crate::x509_svid::{bundle, intermediate, leaf, now, root};

/// The rules of a report without its last line, which repeats the verifier.
fn rules_fail(report: &Report) -> bool {
    let (last, rules) = report.findings.split_last().expect("a report has lines");
    assert!(last.rule == "adit's own verdict" || rules.is_empty(), "{last:?}");
    report.findings.len() == 1 && last.verdict == Verdict::Fail
        || rules.iter().any(|finding| finding.verdict == Verdict::Fail)
}

/// The corpus of chains calls this with each verdict of the verifier.
pub(crate) fn agrees_on_chain(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: UnixTime,
    verdict: &Result<SpiffeId, SvidError>,
) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
    let report = x509_svid(chain, &Given { bundles: Some(bundles), ..Given::at(now) });
    assert_eq!(rules_fail(&report), verdict.is_err(), "{verdict:?}\n{report:#?}");
    // What is wrong with the leaf is wrong without a bundle, too.
    let alone = x509_svid(chain, &Given::at(now));
    assert!(!alone.failed() || report.failed(), "{alone:#?}");
}

/// The corpus of tokens calls this with each verdict of the validator.
pub(crate) fn agrees_on_token(
    token: &str,
    audience: &str,
    bundles: &BundleSet,
    now: SystemTime,
    verdict: &Result<JwtSvid, JwtError>,
) {
    let given = Given { bundles: Some(bundles), audience: Some(audience), ..Given::at(now) };
    let report = jwt_svid(token, &given);
    assert_eq!(rules_fail(&report), verdict.is_err(), "{verdict:?}\n{report:#?}");
}

fn failed(report: &Report) -> Vec<(&str, &str)> {
    let failed = report.findings.iter().filter(|f| f.verdict == Verdict::Fail);
    failed.map(|f| (&*f.rule, f.clause)).collect()
}

fn finding<'a>(report: &'a Report, rule: &str) -> &'a Finding {
    let named = report.findings.iter().find(|f| f.rule == rule);
    named.unwrap_or_else(|| panic!("{rule}: {report:#?}"))
}

#[test]
fn all_faults_of_a_leaf_are_named_at_once_with_their_clauses() {
    let (own, other) = (root(), root());
    let bad = leaf(&other, |p| {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        p.subject_alt_names = vec![uri("spiffe://td/a"), uri("spiffe://TD/b/")];
        p.key_usages = vec![Ku::KeyCertSign, Ku::CrlSign];
        p.extended_key_usages = vec![Eku::ServerAuth];
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.not_after = now() - Duration::from_secs(60);
    });
    let bundles = [bundle("td", &[&own])].into_iter().collect();
    let given = Given { bundles: Some(&bundles), ..Given::at(SystemTime::now()) };
    let report = x509_svid(&[bad], &given);
    let path = ("chain leads to the bundle of its trust domain", "X509-SVID §5.1, RFC 5280 §6.1");
    let expected = [
        ("exactly one URI SAN", "X509-SVID §2"),
        ("trust domain name", "SPIFFE-ID §2.1"),
        ("SPIFFE ID path", "SPIFFE-ID §2.2"),
        ("leaf is not a CA", "X509-SVID §4.1, §5.2"),
        ("key usage of a leaf", "X509-SVID §4.3"),
        ("key usage of a leaf", "X509-SVID §4.3"),
        ("key usage of a leaf", "X509-SVID §4.3"),
        ("extended key usage", "X509-SVID §4.4"),
        ("validity", "RFC 5280 §4.1.2.5"),
        path,
        path,
        ("adit's own verdict", "X509-SVID §5"),
    ];
    assert_eq!(failed(&report), expected);
    let silent = report.findings.iter().find(|f| f.verdict == Verdict::Fail && f.advice.is_empty());
    assert_eq!(silent, None, "each fault says what to do");
}

/// Peers differ, and adit accepts it.
#[test]
fn what_no_verifier_insists_on_is_a_warning() {
    let root = root();
    let bundles = [bundle("td", &[&root])].into_iter().collect();
    let given = Given { bundles: Some(&bundles), ..Given::at(SystemTime::now()) };
    let svid = leaf(&root, |p: &mut CertificateParams| {
        p.extended_key_usages.clear();
        p.distinguished_name = DistinguishedName::new();
    });
    let report = x509_svid(&[svid, root.der.clone()], &given);
    assert!(!report.failed(), "{report:#?}");
    for rule in ["extended key usage", "intermediate 1: no root in the chain"] {
        assert_eq!(finding(&report, rule).verdict, Verdict::Warn, "{rule}");
    }
    // rcgen marks the SAN critical then, as the rule has it.
    assert_eq!(finding(&report, "SAN critical where Subject is empty").verdict, Verdict::Ok);
}

#[test]
fn without_a_bundle_trust_is_not_checked_and_says_what_is_missing() {
    let svid = leaf(&root(), |_| ());
    let report = x509_svid(&[svid], &Given::at(SystemTime::now()));
    let trust = finding(&report, "chain leads to the bundle of its trust domain");
    assert_eq!(trust.verdict, Verdict::NotChecked);
    assert!(trust.found.contains("--bundle"), "{trust:?}");
    assert!(!report.failed(), "{report:#?}");
}

#[test]
fn an_expected_trust_domain_is_demanded() {
    let root = root();
    let (td, other) = ("td".parse().unwrap(), "other".parse().unwrap());
    let svid = [leaf(&root, |_| ())];
    for (expected, fails) in [(&td, false), (&other, true)] {
        let given = Given { trust_domain: Some(expected), ..Given::at(SystemTime::now()) };
        assert_eq!(x509_svid(&svid, &given).failed(), fails, "{expected}");
    }
}

#[test]
fn a_signing_certificate_is_judged_as_one() {
    let given = Given::at(SystemTime::now());
    let root = root();
    assert!(!authority(&root.der, &given).failed());
    let weak = intermediate(&root, |p| {
        p.is_ca = IsCa::ExplicitNoCa;
        p.key_usages = vec![Ku::DigitalSignature];
        p.subject_alt_names = vec![SanType::URI("spiffe://td/a".try_into().unwrap())];
    });
    let report = authority(&weak.der, &given);
    let expected = [
        ("authority: it is a CA", "X509-SVID §3.2, §4.1"),
        ("authority: keyCertSign", "X509-SVID §3.2, §4.3"),
    ];
    assert_eq!(failed(&report), expected);
    let name = finding(&report, "authority: SPIFFE ID without a path");
    assert_eq!((name.verdict, name.clause), (Verdict::Warn, "X509-SVID §3.2"));
}

/// A key of a size or curve, whether or not anybody has its private half.
struct Rsa(usize);

impl rcgen::PublicKeyData for Rsa {
    fn der_bytes(&self) -> &[u8] {
        // SEQUENCE { INTEGER n, INTEGER 65537 }
        let bytes = self.0.div_ceil(8);
        let mut n = vec![0xff; bytes];
        n[0] = (0xff_u32 >> (bytes * 8 - self.0)) as u8;
        if n[0] & 0x80 != 0 {
            n.insert(0, 0);
        }
        let head = |tag: u8, len: usize| {
            let [high, low] = u16::try_from(len).unwrap().to_be_bytes();
            if len < 256 { vec![tag, 0x81, low] } else { vec![tag, 0x82, high, low] }
        };
        let n = [head(2, n.len()), n, vec![2, 3, 1, 0, 1]].concat();
        [head(0x30, n.len()), n].concat().leak()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

/// What no handshake takes is no warning.
#[test]
fn keys_are_judged_as_the_handshake_judges_them() {
    let root = root();
    let given = Given::at(SystemTime::now());
    for (bits, accepted) in
        [(1024, false), (2047, false), (2048, true), (4096, true), (8192, true), (8193, false)]
    {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://td/a".try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![Ku::DigitalSignature];
        params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
        params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
        let der = params.signed_by(&Rsa(bits), &root.issuer).unwrap().der().clone();
        let report = x509_svid(std::slice::from_ref(&der), &given);
        let verdict = finding(&report, "public key");
        assert_eq!(verdict.verdict == Verdict::Ok, accepted, "{bits}: {verdict:?}");
        assert!(verdict.found.contains(&format!("RSA of {bits} bits")), "{verdict:?}");
        assert_eq!(report.failed(), !accepted, "{report:#?}");
        let refused = matches!(adit::identity::parse_leaf(&der), Err(SvidError::Key(_)));
        assert_eq!(refused, !accepted, "{bits}");
        let bundles: BundleSet = [bundle("td", &[&root])].into_iter().collect();
        let (chain, now) = ([der], UnixTime::now());
        let verdict = verify_svid(&chain, &bundles, now, Purpose::Server);
        assert_eq!(verdict.is_ok(), accepted, "{bits}: {verdict:?}");
        agrees_on_chain(&chain, &bundles, now, &verdict);
    }
    // P-192 in the place of P-256, in a leaf and in an authority.
    let (p256, p192) =
        ([0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1]);
    let weak = |der: &CertificateDer<'_>| {
        let at = der.windows(8).position(|w| w == p256).unwrap();
        let mut der = der.to_vec();
        der[at..at + 8].copy_from_slice(&p192);
        CertificateDer::from(der)
    };
    let report = x509_svid(&[weak(&leaf(&root, |_| ()))], &given);
    assert_eq!(finding(&report, "public key").verdict, Verdict::Fail);
    let report = authority(&weak(&root.der), &given);
    assert_eq!(finding(&report, "authority: public key").verdict, Verdict::Fail);
}

#[test]
fn an_authority_below_which_nobody_is_trusted_is_faulty() {
    let given = Given::at(SystemTime::now());
    // Permitted: the trust domain td, as a URI, and as a DNS name.
    for (tag, verdict) in [(0x86, Verdict::Fail), (0x82, Verdict::Warn)] {
        let tree = [0x30, 8, 0xa0, 6, 0x30, 4, tag, 2, b't', b'd'];
        let constraints = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], tree.into());
        let constrained = intermediate(&root(), |p| p.custom_extensions.push(constraints));
        let report = authority(&constrained.der, &given);
        assert_eq!(finding(&report, "authority: name constraints").verdict, verdict);
    }
}

#[test]
fn all_faults_of_a_token_are_named_at_once() {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as B64};
    let header = r#"{"alg":"none","typ":"x","jku":"https://evil"}"#;
    let claims = r#"{"sub":"spiffe://td/a/","aud":[],"exp":1,"exp":"2","iss":7}"#;
    let token = format!("{}.{}.!", B64.encode(header), B64.encode(claims));
    let report = jwt_svid(&token, &Given::at(SystemTime::now()));
    let rules: Vec<_> = failed(&report).into_iter().map(|(rule, _)| rule).collect();
    let expected = [
        "alg is one of the nine",
        "header has alg, kid and typ only",
        "typ is JWT or JOSE",
        "kid names the key",
        "claims are strict JSON",
        "sub is a SPIFFE ID",
        "SPIFFE ID path",
        "aud is present",
        "exp is present",
        "types of registered claims",
        "signature encoding",
    ];
    assert_eq!(rules, expected, "{report:#?}");
}

#[test]
fn all_faults_of_a_bundle_are_named_at_once() {
    let document = br#"{"keys":[{"kty":"EC","use":"jwt-svid"},{"use":"x509-svid"},
        {"kty":"RSA","use":"x509-svid","kid":"k","x5c":[]}],"spiffe_sequence":"1"}"#;
    let report = bundle_document(document, &Given::at(SystemTime::now()));
    let rules: Vec<_> = failed(&report).into_iter().map(|(rule, _)| rule).collect();
    let expected =
        ["spiffe_sequence", "key 0: can be used", "key 1: can be used", "adit's own verdict"];
    assert_eq!(rules, expected);
    assert_eq!(finding(&report, "key 2: no kid").verdict, Verdict::Warn);
}
