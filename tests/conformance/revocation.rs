//! RFC 5280 §6.3 as this project reads it (`src/identity/revocation.rs`): which CRL speaks for
//! whom, what an unusable one does, and what stays as it was.
#![allow(clippy::cloned_ref_to_slice_refs, reason = "a chain of one is written as a chain")]

use std::time::Duration;

use adit::identity::{BundleSet, Purpose, SvidError, TrustBundle, parse_leaf, verify_svid};
use pki_types::{CertificateDer, CertificateRevocationListDer as Crl, UnixTime};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose as Ku, RevokedCertParams, SerialNumber,
};

use crate::lint;
use crate::x509_svid::{Ca, ID, bundle, ca_params, intermediate, leaf, now};

const HOUR: Duration = Duration::from_secs(3600);

fn root() -> Ca {
    root_with(|p| p.key_usages.push(Ku::CrlSign))
}

fn root_with(change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = ca_params(rcgen::BasicConstraints::Unconstrained);
    params.serial_number = Some(SerialNumber::from(rand::random::<u64>() >> 1));
    change(&mut params);
    let der = params.self_signed(&key).unwrap().der().clone();
    Ca { der, issuer: Issuer::new(params, key) }
}

fn serial(cert: &CertificateDer<'_>) -> SerialNumber {
    use x509_parser::prelude::{FromDer, X509Certificate};
    SerialNumber::from_slice(X509Certificate::from_der(cert).unwrap().1.raw_serial())
}

/// A CRL of `ca` that names `revoked`.
fn crl(ca: &Ca, revoked: &[&CertificateDer<'_>]) -> Crl<'static> {
    crl_until(ca, revoked, now() + HOUR)
}

fn crl_until(
    ca: &Ca,
    revoked: &[&CertificateDer<'_>],
    next_update: time::OffsetDateTime,
) -> Crl<'static> {
    let revoked = revoked.iter().map(|cert| RevokedCertParams {
        serial_number: serial(cert),
        revocation_time: now() - HOUR,
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: next_update - 2 * HOUR,
        next_update,
        crl_number: 1u64.into(),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&ca.issuer).unwrap().der().clone()
}

fn with(bundle: TrustBundle, crls: &[&Crl<'static>]) -> TrustBundle {
    TrustBundle { crls: crls.iter().map(|crl| (*crl).clone()).collect(), ..bundle }
}

fn judge(chain: &[CertificateDer<'_>], bundles: &[TrustBundle]) -> Result<(), SvidError> {
    let bundles: BundleSet = bundles.iter().cloned().collect();
    let now = UnixTime::now();
    let verdict = |purpose| verify_svid(chain, &bundles, now, purpose);
    let verdict = verdict(Purpose::Client).and_then(|_| verdict(Purpose::Server));
    lint::agrees_on_chain(chain, &bundles, now, &verdict);
    verdict.map(drop)
}

fn judge_one(leaf: &CertificateDer<'_>, bundles: &[TrustBundle]) -> Result<(), SvidError> {
    judge(std::slice::from_ref(leaf), bundles)
}

fn revoked(verdict: Result<(), SvidError>) -> &'static str {
    match verdict {
        Ok(()) => "accepted",
        Err(SvidError::Revoked { what, .. }) => what,
        Err(other) => panic!("{other}"),
    }
}

fn faults(bundle: &TrustBundle) -> Vec<String> {
    let bundles: BundleSet = [bundle.clone()].into_iter().collect();
    bundles.revocations(&bundle.trust_domain).unwrap().faults().to_vec()
}

#[test]
fn a_crl_names_a_leaf_or_an_intermediate_and_nobody_else_is_concerned() {
    let root = root();
    let middle = intermediate(&root, |p| p.key_usages.push(Ku::CrlSign));
    let plain = leaf(&root, |_| ());
    let other = leaf(&root, |_| ());
    let under = [leaf(&middle, |_| ()), middle.der.clone()];
    let own = |crls: &[&Crl<'static>]| [with(bundle("td", &[&root]), crls)];
    let by_root = |cert| crl(&root, &[cert]);
    let cases = [
        ("nobody named", own(&[&crl(&root, &[])]), ["accepted"; 3]),
        ("the leaf", own(&[&by_root(&plain)]), ["the leaf", "accepted", "accepted"]),
        (
            "the intermediate",
            own(&[&by_root(&middle.der)]),
            ["accepted", "accepted", "the intermediate"],
        ),
        (
            "under it, by its own CRL",
            own(&[&crl(&middle, &[&under[0]])]),
            ["accepted", "accepted", "the leaf"],
        ),
        ("by somebody who did not issue it", own(&[&crl(&middle, &[&plain])]), ["accepted"; 3]),
        (
            "in any of several",
            own(&[&crl(&root, &[]), &by_root(&plain)]),
            ["the leaf", "accepted", "accepted"],
        ),
    ];
    for (name, bundles, expected) in cases {
        let chains = [&[plain.clone()][..], std::slice::from_ref(&other), &under];
        assert_eq!(chains.map(|chain| revoked(judge(chain, &bundles))), expected, "{name}");
    }
    let error = judge_one(&plain, &own(&[&by_root(&plain)])).unwrap_err();
    let said = format!("the SVID of {ID} is revoked: a CRL of its trust domain names the leaf ");
    assert_eq!(error.to_string(), said + &parse_leaf(&plain).unwrap().serial);
}

/// A root and its successor often have one name.
#[test]
fn a_crl_speaks_for_the_key_that_signed_it_and_not_for_a_name() {
    let (old, new) = (root(), root());
    let svid = leaf(&new, |p| p.serial_number = Some(SerialNumber::from(4711)));
    let same_serial = leaf(&old, |p| p.serial_number = Some(SerialNumber::from(4711)));
    let both = with(bundle("td", &[&old, &new]), &[&crl(&old, &[&same_serial])]);
    assert_eq!(revoked(judge_one(&same_serial, std::slice::from_ref(&both))), "the leaf");
    assert_eq!(revoked(judge_one(&svid, &[both])), "accepted");
    // A root that has gone speaks for nobody.
    let gone = with(bundle("td", &[&new]), &[&crl(&old, &[&svid])]);
    assert_eq!(revoked(judge(&[svid], std::slice::from_ref(&gone))), "accepted");
    assert!(
        faults(&gone)[0].contains("not signed with that authority's key"),
        "{:?}",
        faults(&gone)
    );
}

#[test]
fn a_crl_of_another_trust_domain_is_not_asked() {
    let (root, other) = (root(), root());
    let svid = leaf(&root, |_| ());
    let own = bundle("td", &[&root]);
    for elsewhere in [crl(&root, &[&svid]), crl(&other, &[&svid])] {
        let elsewhere = with(bundle("other", &[&other]), &[&elsewhere]);
        assert_eq!(revoked(judge_one(&svid, &[own.clone(), elsewhere])), "accepted");
    }
}

#[test]
fn an_unusable_crl_revokes_nothing_is_told_and_takes_no_other_with_it() {
    let root = root();
    let (svid, good) = (leaf(&root, |_| ()), leaf(&root, |_| ()));
    let right = crl(&root, &[&svid]);
    let mut forged = right.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let mut longer = right.to_vec();
    longer.push(0);
    let cases = [
        ("garbage", b"no CRL".to_vec(), "cannot be read"),
        ("nothing", Vec::new(), "cannot be read"),
        ("a certificate", svid.to_vec(), "cannot be read"),
        ("cut", right[..right.len() - 9].to_vec(), "cannot be read"),
        ("with something after it", longer, "cannot be read"),
        ("with another signature", forged, "not signed with that authority's key"),
    ];
    for (name, der, why) in cases {
        let der = Crl::from(der);
        let alone = with(bundle("td", &[&root]), &[&der]);
        assert!(faults(&alone)[0].contains(why), "{name}: {:?}", faults(&alone));
        assert_eq!(revoked(judge_one(&svid, &[alone])), "accepted", "{name}");
        let beside = with(bundle("td", &[&root]), &[&der, &right]);
        assert_eq!(revoked(judge_one(&svid, std::slice::from_ref(&beside))), "the leaf", "{name}");
        assert_eq!(revoked(judge_one(&good, &[beside])), "accepted", "{name}");
    }
}

#[test]
fn a_crl_that_is_overdue_still_counts_and_refuses_nobody_else() {
    let root = root();
    let (svid, good) = (leaf(&root, |_| ()), leaf(&root, |_| ()));
    let old = with(bundle("td", &[&root]), &[&crl_until(&root, &[&svid], now() - HOUR)]);
    assert_eq!(revoked(judge(&[svid], std::slice::from_ref(&old))), "the leaf");
    assert_eq!(revoked(judge(&[good], std::slice::from_ref(&old))), "accepted");
    assert!(faults(&old).is_empty());
    let bundles: BundleSet = [old].into_iter().collect();
    let read = bundles.revocations(&"td".parse().unwrap()).unwrap();
    assert_eq!((read.overdue(UnixTime::now()), read.soon_overdue(UnixTime::now())), (1, 0));
}

/// Ahead of its time, when somebody can still do something.
#[test]
fn a_crl_that_is_soon_overdue_is_known() {
    let root = root();
    let (until, at) = (now() + HOUR, |seconds: u64| {
        UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() + seconds))
    });
    let fresh = with(bundle("td", &[&root]), &[&crl_until(&root, &[], until)]);
    let bundles: BundleSet = [fresh].into_iter().collect();
    let read = bundles.revocations(&"td".parse().unwrap()).unwrap();
    let counts = |seconds| (read.overdue(at(seconds)), read.soon_overdue(at(seconds)));
    assert_eq!(counts(3500), (0, 1));
    assert_eq!(counts(3700), (1, 0));
}

/// A bit that its root lacks does not let a revoked certificate in.
#[test]
fn a_root_without_crl_sign_is_believed_when_it_revokes() {
    let root = root_with(|p| p.key_usages = vec![Ku::KeyCertSign]);
    let lasting = root_with(|p| p.key_usages.push(Ku::CrlSign));
    let svid = leaf(&root, |_| ());
    // rcgen makes no CRL without the bit; the key is what counts.
    let params = {
        let mut params = ca_params(rcgen::BasicConstraints::Unconstrained);
        params.key_usages.push(Ku::CrlSign);
        params
    };
    let key = KeyPair::from_pem(&root.issuer.key().serialize_pem()).unwrap();
    let signer = Ca { der: root.der.clone(), issuer: Issuer::new(params, key) };
    let both = with(bundle("td", &[&root, &lasting]), &[&crl(&signer, &[&svid])]);
    assert_eq!(revoked(judge(&[svid], &[both])), "the leaf");
}

/// Some bundles list an intermediate as an authority: its root can still take it back.
#[test]
fn an_authority_that_another_has_revoked_is_no_anchor() {
    let root = root();
    let middle = intermediate(&root, |_| ());
    let svid = leaf(&middle, |_| ());
    let listed = bundle("td", &[&root, &middle]);
    assert_eq!(revoked(judge_one(&svid, std::slice::from_ref(&listed))), "accepted");
    let taken_back = with(listed, &[&crl(&root, &[&middle.der])]);
    let verdict = judge_one(&svid, std::slice::from_ref(&taken_back));
    assert!(matches!(verdict, Err(SvidError::Untrusted(_))), "{verdict:?}");
    assert_eq!(revoked(judge(&[svid, middle.der.clone()], &[taken_back])), "the intermediate");
}

/// An old and a new root share a name, and both may have counted from 1.
#[test]
fn a_serial_number_of_a_new_root_is_not_the_old_roots_own() {
    let one = |p: &mut CertificateParams| p.serial_number = Some(SerialNumber::from(1u64));
    let both = |p: &mut CertificateParams| {
        p.key_usages.push(Ku::CrlSign);
        one(p);
    };
    let (old, new) = (root_with(both), root_with(|p| p.key_usages.push(Ku::CrlSign)));
    let (of_old, of_new) = (leaf(&old, |_| ()), leaf(&new, one));
    let listed = with(bundle("td", &[&old, &new]), &[&crl(&new, &[&of_new])]);
    assert_eq!(revoked(judge_one(&of_new, std::slice::from_ref(&listed))), "the leaf");
    assert_eq!(revoked(judge_one(&of_old, &[listed])), "accepted");
    // The old root's own CRL does take it back.
    let gone = with(bundle("td", &[&old, &new]), &[&crl(&old, &[&old.der])]);
    let verdict = judge_one(&of_old, &[gone]);
    assert!(matches!(verdict, Err(SvidError::Untrusted(_))), "{verdict:?}");
}
