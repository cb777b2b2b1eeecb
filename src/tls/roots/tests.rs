use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose as Ku,
    SerialNumber,
};
use time::{Duration as Span, OffsetDateTime};

use std::time::Duration;

use super::*;
use crate::identity::{BundleSet, Purpose, TrustBundle, verify_svid};
use crate::tls::Expiries;

type Der = CertificateDer<'static>;

fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.is_ca, params.key_usages) = match ca {
        true => {
            let uses = vec![Ku::KeyCertSign, Ku::CrlSign];
            (IsCa::Ca(BasicConstraints::Unconstrained), uses)
        }
        false => {
            params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
            params.subject_alt_names =
                vec![rcgen::SanType::URI("spiffe://td/a".try_into().unwrap())];
            (IsCa::ExplicitNoCa, vec![Ku::DigitalSignature])
        }
    };
    params.not_before = OffsetDateTime::now_utc() - Span::days(9);
    params
}

fn root(change: impl FnOnce(&mut CertificateParams)) -> (Der, Issuer<'static, KeyPair>) {
    let (mut params, key) = (params("root", true), KeyPair::generate().unwrap());
    change(&mut params);
    (params.self_signed(&key).unwrap().der().clone(), Issuer::new(params, key))
}

fn below(
    by: &Issuer<'static, KeyPair>,
    mut params: CertificateParams,
    change: impl FnOnce(&mut CertificateParams),
) -> (Der, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    change(&mut params);
    (params.signed_by(&key, by).unwrap().der().clone(), Issuer::new(params, key))
}

fn judge(
    roots: &[&Der],
    crls: Vec<CertificateRevocationListDer<'static>>,
    stale: StaleCrls,
) -> Judge {
    let roots: Vec<Der> = roots.iter().map(|der| (*der).clone()).collect();
    Judge::new(&roots.into(), &crls.into(), stale).unwrap()
}

fn verdict(judge: &Judge, chain: &[&Der]) -> Result<(), String> {
    let above: Vec<Der> = chain[1..].iter().map(|der| (*der).clone()).collect();
    let judged = judge.verify_client(chain[0], &above, UnixTime::now());
    judged.map(drop).map_err(|e| crate::tls::TlsError::from_rustls(e).to_string())
}

#[test]
fn an_expired_root_vouches_for_nobody_whoever_asks() {
    let ended = |p: &mut CertificateParams| p.not_after = OffsetDateTime::now_utc() - Span::days(1);
    let ((old, by), (other, _)) = (
        root(ended),
        root(|p| {
            p.distinguished_name.push(DnType::OrganizationName, "other");
        }),
    );
    let (leaf, _) = below(&by, params("leaf", false), |_| {});
    let refused = verdict(&judge(&[&old, &other], vec![], StaleCrls::Refuse), &[&leaf]);
    assert!(
        refused.as_ref().is_err_and(|e| e.contains("CN=root") && e.contains("not valid now")),
        "{refused:?}"
    );
    let none = Judge::new(&vec![old.clone()].into(), &vec![].into(), StaleCrls::Refuse);
    assert!(none.unwrap_err().contains("expired"));
    let bundle = TrustBundle::new("td".parse().unwrap(), vec![old.clone()]);
    let bundles: BundleSet = [bundle].into_iter().collect();
    for purpose in [Purpose::Client, Purpose::Server] {
        let refused = verify_svid(std::slice::from_ref(&leaf), &bundles, UnixTime::now(), purpose);
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("authority is not valid now"), "{why}");
    }
    assert!(Expiries::of(&[old], &[]).soon(UnixTime::now())[0].contains("has expired"));
    // One that ends while it is held.
    let soon = |p: &mut CertificateParams| p.not_after = OffsetDateTime::now_utc() + Span::hours(1);
    let (ends, by) = root(soon);
    let (leaf, _) = below(&by, params("leaf", false), |_| {});
    let judge = judge(&[&ends, &other], vec![], StaleCrls::Refuse);
    assert_eq!(verdict(&judge, &[&leaf]), Ok(()));
    let later = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() + 7200));
    assert!(judge.verify_client(&leaf, &[], later).is_err());
    assert_eq!(verdict(&judge, &[&leaf]), Ok(()), "the clock went back");
    let told = Expiries::of(&[ends], &[]).soon(UnixTime::now());
    assert!(told[0].contains("expires soon"), "{told:?}");
}

#[test]
fn a_crl_past_its_next_update_refuses_unless_the_operator_says_otherwise() {
    let (ca, by) = root(|_| {});
    let (leaf, _) = below(&by, params("leaf", false), |_| {});
    let crl = |until: Span| {
        let now = OffsetDateTime::now_utc();
        let list = CertificateRevocationListParams {
            this_update: now - Span::days(3),
            next_update: now + until,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&by).unwrap().der().clone()
    };
    for (until, stale, accepted) in [
        (Span::days(1), StaleCrls::Refuse, true),
        (Span::days(-1), StaleCrls::Refuse, false),
        (Span::days(-1), StaleCrls::Warn, true),
    ] {
        let got = verdict(&judge(&[&ca], vec![crl(until)], stale), &[&leaf]);
        assert_eq!(got.is_ok(), accepted, "{until} {stale:?}: {got:?}");
    }
    // It lives for 13 days, and is told of when a third of them is left.
    let ends = Expiries::of(&[], &[crl(Span::days(10))]);
    let day = 86_400;
    for (days, says) in [(0, None), (5, None), (6, Some("expires soon")), (11, Some("has expired"))]
    {
        let then = Duration::from_secs(UnixTime::now().as_secs() + days * day);
        let told = ends.soon(UnixTime::since_unix_epoch(then));
        let expected = says.map(|says| format!("CRL of CN=root {says}"));
        let told = told.first().map(|told| told.split(':').next().unwrap().to_owned());
        assert_eq!(told, expected, "after {days} days");
    }
}

#[test]
fn an_intermediate_signs_only_with_key_cert_sign() {
    let (ca, by) = root(|_| {});
    for (uses, accepted) in [
        (vec![Ku::KeyCertSign], true),
        (vec![Ku::CrlSign, Ku::DigitalSignature], false),
        (vec![], false),
    ] {
        let (between, between_by) =
            below(&by, params("between", true), |p| p.key_usages = uses.clone());
        let (leaf, _) = below(&between_by, params("leaf", false), |_| {});
        let got = verdict(&judge(&[&ca], vec![], StaleCrls::Refuse), &[&leaf, &between]);
        assert_eq!(got.is_ok(), accepted, "{uses:?}: {got:?}");
        assert!(accepted || got.unwrap_err().contains("keyCertSign"));
    }
}

/// Roots of files and of bundles are judged alike.
#[test]
fn a_root_that_says_that_it_certifies_nobody_is_believed() {
    let no_ca = |p: &mut CertificateParams| p.is_ca = IsCa::ExplicitNoCa;
    let usage = |uses: Vec<Ku>| move |p: &mut CertificateParams| p.key_usages = uses;
    for ((ca, by), why) in [
        (root(usage(vec![Ku::KeyCertSign])), None),
        (root(usage(vec![])), None),
        (root(usage(vec![Ku::CrlSign, Ku::DigitalSignature])), Some("lacks keyCertSign")),
        (root(no_ca), Some("CA:FALSE")),
    ] {
        let (leaf, _) = below(&by, params("leaf", false), |_| {});
        let (other, _) = root(|p| p.distinguished_name.push(DnType::OrganizationName, "other"));
        let bundle = TrustBundle::new("td".parse().unwrap(), vec![ca.clone()]);
        let bundles: BundleSet = [bundle].into_iter().collect();
        let chain = std::slice::from_ref(&leaf);
        let by_bundle = verify_svid(chain, &bundles, UnixTime::now(), Purpose::Client);
        // Sent along, as OpenSSL does, a root is what it is without.
        let along = [leaf.clone(), ca.clone()];
        let along_by_bundle = verify_svid(&along, &bundles, UnixTime::now(), Purpose::Client);
        let along = verdict(&judge(&[&ca], vec![], StaleCrls::Refuse), &[&leaf, &ca]);
        assert_eq!([along.is_ok(), along_by_bundle.is_ok()], [why.is_none(); 2], "{why:?}");
        for got in [
            verdict(&judge(&[&ca], vec![], StaleCrls::Refuse), &[&leaf]),
            verdict(&judge(&[&ca, &other], vec![], StaleCrls::Refuse), &[&leaf]),
            by_bundle.map(drop).map_err(|e| e.to_string()),
        ] {
            match why {
                None => assert_eq!(got, Ok(())),
                Some(why) => {
                    let said = got.unwrap_err();
                    let named = "CN=root that";
                    assert!(said.contains(why) && said.contains("cannot be used"), "{said}");
                    assert!(said.contains(named), "{said}");
                }
            }
        }
    }
    // It is trusted for itself.
    let (own, _) = root(|p| {
        p.is_ca = IsCa::ExplicitNoCa;
        p.key_usages = vec![Ku::DigitalSignature];
    });
    assert_eq!(verdict(&judge(&[&own], vec![], StaleCrls::Refuse), &[&own]), Ok(()));
}

#[test]
fn what_is_wrong_with_the_chain_that_we_show_is_told() {
    let (_, by) = root(|_| {});
    let uses = |uses: Vec<Ku>| {
        let (between, by) = below(&by, params("between", true), |p| p.key_usages = uses);
        let (leaf, _) = below(&by, params("leaf", false), |_| {});
        Expiries::default().and_own(&[leaf, between]).soon(UnixTime::now())
    };
    assert!(uses(vec![Ku::KeyCertSign]).is_empty());
    let told = uses(vec![Ku::CrlSign]);
    assert!(told[0].contains("CN=between") && told[0].contains("keyCertSign"), "{told:?}");
}

/// Not as the peer's own certificate, and not before it began as if it had ended.
#[test]
fn what_is_not_of_this_time_is_named() {
    let now = OffsetDateTime::now_utc();
    let ended = |p: &mut CertificateParams| p.not_after = now - Span::days(1);
    let early = |p: &mut CertificateParams| p.not_before = now + Span::days(1);
    let (ca, by) = root(|_| {});
    for (change, says) in
        [(&ended as &dyn Fn(&mut _), "expired at"), (&early, "is not valid before")]
    {
        let (between, between_by) = below(&by, params("between", true), |p| change(p));
        let (leaf, _) = below(&between_by, params("leaf", false), |_| {});
        let said = verdict(&judge(&[&ca], vec![], StaleCrls::Refuse), &[&leaf, &between]);
        let said = said.unwrap_err();
        assert!(said.contains("the intermediate CN=between") && said.contains(says), "{said}");
        let (leaf, _) = below(&by, params("leaf", false), |p| change(p));
        let said = verdict(&judge(&[&ca], vec![], StaleCrls::Refuse), &[&leaf]).unwrap_err();
        assert!(said.contains("the peer's certificate ") && said.contains(says), "{said}");
    }
    let (early, _) = root(early);
    let none = Judge::new(&vec![early.clone()].into(), &vec![].into(), StaleCrls::Refuse);
    let said = none.unwrap_err();
    assert!(said.contains("not valid yet") && !said.contains("expired"), "{said}");
    let told = Expiries::of(&[early], &[]).soon(UnixTime::now());
    assert!(told.len() == 1 && told[0].contains("not valid yet"), "{told:?}");
}

/// What `openssl req -x509` makes.
#[test]
fn a_self_signed_ca_certificate_is_taken_where_exactly_it_is_trusted() {
    let own = |name: &str, uses: Vec<Ku>| {
        root(|p| {
            p.distinguished_name = rcgen::DistinguishedName::new();
            p.distinguished_name.push(DnType::CommonName, name);
            p.subject_alt_names = vec![rcgen::SanType::DnsName("db.example".try_into().unwrap())];
            p.key_usages = uses;
        })
        .0
    };
    let (one, same_name, other) = (own("db", vec![]), own("db", vec![]), own("other", vec![]));
    let judge_one = judge(&[&one], vec![], StaleCrls::Refuse);
    assert_eq!(verdict(&judge_one, &[&one]), Ok(()));
    for stranger in [&same_name, &other] {
        let why = verdict(&judge_one, &[stranger]).unwrap_err();
        assert!(why.contains("trust exactly this certificate"), "{why}");
    }
    let named = |name: &'static str| {
        judge_one.verify_server(&one, &[], &name.try_into().unwrap(), UnixTime::now()).is_ok()
    };
    assert!(named("db.example") && !named("web.example"));
    let signs_only = own("db", vec![Ku::KeyCertSign]);
    let said = verdict(&judge(&[&signs_only], vec![], StaleCrls::Warn), &[&signs_only]);
    assert!(said.unwrap_err().contains("lacks digitalSignature"));
}

/// It has no authority above it that could run out or revoke for it: what it says of itself and
/// what a CRL in its name says is all there is.
#[test]
fn a_self_signed_ca_certificate_has_its_time_and_may_be_revoked() {
    let from = |begin: Span, end: Span| {
        root(|p| {
            let now = OffsetDateTime::now_utc();
            (p.key_usages, p.serial_number) = (vec![], Some(SerialNumber::from(7)));
            p.subject_alt_names = vec![rcgen::SanType::DnsName("db.example".try_into().unwrap())];
            (p.not_before, p.not_after) = (now + begin, now + end);
        })
    };
    let revoking = |serial: u64| {
        let (mut params, now) = (params("root", true), OffsetDateTime::now_utc());
        params.key_usages = vec![Ku::CrlSign];
        let revoked = rcgen::RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Span::days(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let by = Issuer::new(params, KeyPair::generate().unwrap());
        list.signed_by(&by).unwrap().der().clone()
    };
    let (day, hour) = (Span::days(1), Span::hours(1));
    let (other, _) = root(|p| p.distinguished_name.push(DnType::OrganizationName, "other"));
    for (what, (cert, _), crls, accepted) in [
        ("in its time", from(-day, day), vec![], true),
        ("over", from(-day, -hour), vec![], false),
        ("not yet", from(hour, day), vec![], false),
        ("another revoked", from(-day, day), vec![revoking(8)], true),
        ("revoked", from(-day, day), vec![revoking(8), revoking(7)], false),
    ] {
        let judge = judge(&[&cert, &other], crls, StaleCrls::Refuse);
        assert_eq!(verdict(&judge, &[&cert]).is_ok(), accepted, "{what}, as a client");
        let name = "db.example".try_into().unwrap();
        let server = judge.verify_server(&cert, &[], &name, UnixTime::now());
        assert_eq!(server.is_ok(), accepted, "{what}, as a server: {server:?}");
    }
}

/// They are refused before they are understood; who has them issued without is told how.
#[test]
fn name_constraints_on_uris_are_named() {
    let constrained = |tag: u8, name: &[u8]| {
        let wrap = |tag: u8, inner: Vec<u8>| [&[tag, inner.len() as u8], &*inner].concat();
        let tree = wrap(0x30, wrap(0xa0, wrap(0x30, wrap(tag, name.to_vec()))));
        let mut constraints = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], tree);
        constraints.set_criticality(true);
        constraints
    };
    let (plain, plain_by) = root(|_| {});
    let uris = || constrained(0x86, b"td");
    let (root_has, root_by) = root(|p| p.custom_extensions.push(uris()));
    let between = || {
        let mut params = params("between", true);
        params.custom_extensions.push(uris());
        below(&plain_by, params, |_| {})
    };
    let (between, between_by) = between();
    let (of_root, _) = below(&root_by, params("leaf", false), |_| {});
    let (of_between, _) = below(&between_by, params("leaf", false), |_| {});
    for (top, chain, who) in [
        (&root_has, vec![&of_root], "CN=root"),
        (&plain, vec![&of_between, &between], "CN=between"),
    ] {
        let why = verdict(&judge(&[top], vec![], StaleCrls::Refuse), &chain).unwrap_err();
        let named = format!("the authority {who} has name constraints on URIs");
        assert!(why.contains(&named), "{why}");
        let bundle = TrustBundle::new("td".parse().unwrap(), vec![top.clone()]);
        let bundles: BundleSet = [bundle].into_iter().collect();
        let chain: Vec<Der> = chain.into_iter().cloned().collect();
        let why = verify_svid(&chain, &bundles, UnixTime::now(), Purpose::Client).unwrap_err();
        assert!(why.to_string().contains(&named), "{why}");
    }
    // Those on other names concern nobody without such a name.
    let (dns, by) = root(|p| p.custom_extensions.push(constrained(0x82, b"td")));
    let (leaf, _) = below(&by, params("leaf", false), |_| {});
    assert_eq!(verdict(&judge(&[&dns], vec![], StaleCrls::Refuse), &[&leaf]), Ok(()));
}
