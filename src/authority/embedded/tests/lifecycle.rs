//! Steps, crashes between them, and what a running process makes of them.

use futures_util::FutureExt;

use super::*;
use crate::{
    credentials::{Source, Svids, Urgency, Wanted},
    identity::validate_jwt_svid,
    lifecycle::Tasks,
    observe::metrics::Metrics,
};

fn web() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn verifies(svid: &X509Svid, ca: &EmbeddedCa) -> bool {
    let bundles = [ca.bundle()].into_iter().collect();
    verify_svid(&svid.chain, &bundles, UnixTime::now(), Purpose::Server).is_ok()
}

#[test]
fn a_running_process_follows_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, steps) = (open(dir.path()).unwrap(), CaDirectory::open(dir.path()).unwrap());
    let wanted = Wanted { uid: "shop/web".into(), id: web() };
    let fetch = || ca.fetch(&wanted, Urgency::Background).now_or_never().unwrap().unwrap();
    let changed = || ca.changed(&wanted).now_or_never().is_some();
    let (old, sequence) = (fetch(), ca.bundle().sequence);
    steps.prepare(AuthorityKind::X509).unwrap();
    ca.refresh().unwrap();
    assert_eq!((ca.bundle().authorities.len(), changed()), (2, false));
    assert!(ca.bundle().sequence > sequence);
    let early =
        steps.activate(AuthorityKind::X509, Duration::from_secs(3)).unwrap_err().to_string();
    assert!(early.contains("may not know it yet"), "{early}");
    steps.activate(AuthorityKind::X509, Duration::ZERO).unwrap();
    ca.refresh().unwrap();
    assert!(changed(), "no longer active: renewed at once");
    let tainted = steps.taint(AuthorityKind::X509, None).unwrap();
    assert!(matches!(
        steps.revoke(AuthorityKind::X509, None, false).unwrap_err(),
        CaError::Step(StepError::InUse { identities: 1, .. })
    ));
    let new = fetch();
    assert!(!changed() && verifies(&old, &ca) && verifies(&new, &ca));
    assert!(steps.dependents(&tainted).unwrap().identities.is_empty());
    steps.revoke(AuthorityKind::X509, None, false).unwrap();
    ca.refresh().unwrap();
    assert!(!verifies(&old, &ca) && verifies(&new, &ca));
    assert_eq!(ca.bundle(), open(dir.path()).unwrap().bundle());
    assert!(!dir.path().join(KEY).exists(), "the revoked key is gone");
}

#[test]
fn the_sequence_grows_whenever_the_document_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, steps) = (open(dir.path()).unwrap(), CaDirectory::open(dir.path()).unwrap());
    let seen = std::cell::RefCell::new(Vec::new());
    let look = |step: String| {
        ca.refresh().unwrap();
        let mut bundle = ca.bundle();
        let sequence = bundle.sequence.take().unwrap();
        let document = bundle.to_document().to_string();
        if let Some((before, then)) = seen.borrow().last() {
            assert_eq!(document != *before, sequence > *then, "{step}: {then} then {sequence}");
            assert!(sequence >= *then, "{step}");
        }
        seen.borrow_mut().push((document, sequence));
    };
    look("first".into());
    for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
        steps.prepare(kind).unwrap();
        look(format!("prepare {kind:?}"));
        steps.activate(kind, Duration::ZERO).unwrap();
        look(format!("activate {kind:?}"));
        steps.taint(kind, None).unwrap();
        look(format!("taint {kind:?}"));
        steps.revoke(kind, None, true).unwrap();
        look(format!("revoke {kind:?}"));
    }
    steps.ban(&web()).unwrap();
    look("ban".into());
}

#[test]
fn the_bundle_file_says_at_every_step_what_is_trusted() {
    use pki_types::pem::PemObject;
    let dir = tempfile::tempdir().unwrap();
    let (ca, steps) = (open(dir.path()).unwrap(), CaDirectory::open(dir.path()).unwrap());
    let file = dir.path().join("bundle.pem");
    let says = || {
        let all = CertificateDer::pem_file_iter(&file).unwrap().collect::<Result<Vec<_>, _>>();
        ca.refresh().unwrap();
        assert_eq!(ca.bundle().authorities, *all.as_ref().unwrap());
        all.unwrap().len()
    };
    assert_eq!(says(), 1);
    steps.prepare(AuthorityKind::X509).unwrap();
    assert_eq!(says(), 2);
    steps.activate(AuthorityKind::X509, Duration::ZERO).unwrap();
    ca.refresh().unwrap();
    assert_eq!(says(), 2);
    steps.taint(AuthorityKind::X509, None).unwrap();
    steps.revoke(AuthorityKind::X509, None, true).unwrap();
    assert_eq!(says(), 1);
    // Whoever takes it away finds it again.
    fs::remove_file(&file).unwrap();
    ca.refresh().unwrap();
    assert_eq!(says(), 1);
}

#[test]
fn a_banned_identity_gets_nothing_and_what_it_had_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, steps) = (open(dir.path()).unwrap(), CaDirectory::open(dir.path()).unwrap());
    let svid = ca.issue(&web()).unwrap();
    assert_eq!(steps.ban(&web()).unwrap(), 1);
    assert!(matches!(ca.issue(&web()), Err(CaError::Banned(_))), "at once, before it looks");
    assert!(matches!(ca.sign_jwt(&web(), &["a".into()]), Err(CaError::Banned(_))));
    assert!(ca.banned().borrow().contains(&web()));
    let crls = ca.bundle().crls;
    let revoked = webpki::BorrowedCertRevocationList::from_der(&crls[0]).unwrap();
    let serial: Vec<u8> =
        (0..16).map(|n| u8::from_str_radix(&svid.serial[2 * n..2 * n + 2], 16).unwrap()).collect();
    assert!(webpki::CertRevocationList::from(revoked).find_serial(&serial).unwrap().is_some());
    assert!(steps.unban(&web()).unwrap());
    assert!(ca.issue(&web()).is_ok());
    assert!(steps.ban(&"spiffe://other/x".parse().unwrap()).is_err());
}

#[test]
fn jwt_svids_are_signed_by_the_active_authority_of_the_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, steps) = (open(dir.path()).unwrap(), CaDirectory::open(dir.path()).unwrap());
    let token = || ca.sign_jwt(&web(), &["bank".to_owned()]).unwrap();
    let valid = |token: &str| {
        let bundles = [ca.bundle()].into_iter().collect();
        validate_jwt_svid(token, "bank", &bundles, SystemTime::now()).is_ok()
    };
    let first = token();
    assert!(valid(&first));
    steps.prepare(AuthorityKind::Jwt).unwrap();
    steps.activate(AuthorityKind::Jwt, Duration::ZERO).unwrap();
    let second = token();
    assert!(valid(&first) && valid(&second));
    steps.taint(AuthorityKind::Jwt, None).unwrap();
    steps.revoke(AuthorityKind::Jwt, None, false).unwrap();
    ca.refresh().unwrap();
    assert!(!valid(&first) && valid(&second));
}

/// Every file that a crash can leave behind or not have written yet.
#[test]
fn a_crash_between_any_two_writes_is_understood() {
    type Crash = fn(&Path);
    let cases: [(&str, Crash); 7] = [
        ("an empty state", |d| empty_state(d, &[ROOT, KEY])),
        ("the first key", |d| empty_state(d, &[ROOT])),
        ("the first key and certificate", |d| empty_state(d, &[])),
        ("a prepared key", |d| fs::write(d.join("x509-00-key.pem"), "half").unwrap()),
        ("a temporary file", |d| fs::write(d.join("authorities.json.adit-tmp"), "{").unwrap()),
        ("no CRL", |d| fs::remove_file(d.join("crl.pem")).unwrap()),
        ("no bundle", |d| fs::remove_file(d.join("bundle.pem")).unwrap()),
    ];
    for (what, crash) in cases {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        crash(dir.path());
        let ca = open(dir.path()).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(verifies(&ca.issue(&web()).unwrap(), &ca), "{what}");
        assert_eq!(ca.bundle().crls.len(), 1, "{what}");
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 10, "{what}: leftovers are swept");
    }
}

/// Other parsers than ours read them, and some refuse a text around the items.
#[test]
fn the_files_that_others_read_are_pem_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, steps) = (open(dir.path()).unwrap(), CaDirectory::open(dir.path()).unwrap());
    ca.issue(&web()).unwrap();
    let only_pem = || {
        for name in ["crl.pem", "bundle.pem", ROOT] {
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.starts_with("-----BEGIN "), "{name}: {text:.40}");
            let mut within = false;
            for line in text.lines() {
                within |= line.starts_with("-----BEGIN ");
                assert!(within, "{name}: {line}");
                within &= !line.starts_with("-----END ");
            }
        }
    };
    only_pem();
    steps.ban(&web()).unwrap();
    only_pem();
    // As it was written before.
    let path = dir.path().join("crl.pem");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("# CRL number 2\n{text}")).unwrap();
    ca.refresh().unwrap();
    only_pem();
    assert_eq!(ca.bundle().crls.len(), 1);
    // Damaged: made anew, and never read in half.
    fs::write(&path, text.replace("-----END X509 CRL-----\n", "")).unwrap();
    drop(open(dir.path()).unwrap());
    only_pem();
}

fn empty_state(dir: &Path, gone: &[&str]) {
    let state = serde_json::to_string(&CaState::new("cluster.local")).unwrap();
    fs::write(dir.join(store::STATE), state).unwrap();
    gone.iter().for_each(|name| fs::remove_file(dir.join(name)).unwrap());
}

fn is_revoked(ca: &EmbeddedCa, svid: &X509Svid) -> bool {
    let bundles = [ca.bundle()].into_iter().collect();
    let judged = verify_svid(&svid.chain, &bundles, UnixTime::now(), Purpose::Server);
    matches!(judged, Err(crate::identity::SvidError::Revoked { .. }))
}

#[test]
fn what_an_authority_revoked_stays_revoked_when_its_key_is_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, steps) = (open(dir.path()).unwrap(), CaDirectory::open(dir.path()).unwrap());
    let svid = ca.issue(&web()).unwrap();
    steps.ban(&web()).unwrap();
    steps.prepare(AuthorityKind::X509).unwrap();
    steps.activate(AuthorityKind::X509, Duration::ZERO).unwrap();
    ca.refresh().unwrap();
    assert!(is_revoked(&ca, &svid));
    fs::remove_file(dir.path().join(KEY)).unwrap();
    let other = "spiffe://cluster.local/ns/shop/sa/db".parse().unwrap();
    ca.issue(&other).unwrap();
    assert_eq!(steps.ban(&other).unwrap(), 1, "the CRLs are written anew");
    ca.refresh().unwrap();
    assert_eq!(ca.bundle().crls.len(), 2);
    assert!(is_revoked(&ca, &svid));
}

/// RFC 5280 §3.3: not before a CRL that is issued after the certificate's end.
#[test]
fn a_revoked_serial_number_outlives_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path()).unwrap();
    let steps = CaDirectory::open(dir.path()).unwrap();
    ca.issue(&web()).unwrap();
    steps.ban(&web()).unwrap();
    let path = dir.path().join(store::STATE);
    let aged = |by: u64| {
        let mut state: CaState = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let end = seconds(SystemTime::now()) - by;
        let all = std::mem::take(&mut state.revoked).into_iter();
        state.revoked = all.map(|r| state::RevokedSerial { not_after: end, ..r }).collect();
        fs::write(&path, serde_json::to_vec(&state).unwrap()).unwrap();
        steps.unban(&web()).unwrap();
        steps.show().unwrap().revoked
    };
    assert_eq!(aged(60), 1);
    assert_eq!(aged(2 * 86_400), 0);
}

#[tokio::test]
async fn workloads_of_one_service_account_have_keys_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let domain = "td".parse().unwrap();
    let ca = EmbeddedCa::open(dir.path(), &domain, Duration::from_secs(60)).unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let svids = Svids::new(Arc::new(ca), metrics, Tasks::default());
    let id: SpiffeId = "spiffe://td/ns/shop/sa/web".parse().unwrap();
    let uids: [Arc<str>; 2] = ["shop/web-1".into(), "shop/web-2".into()];
    uids.iter().for_each(|uid| svids.watch(uid, &id));
    let [one, two] = [&uids[0], &uids[1]].map(|uid| svids.ready(uid));
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    assert_eq!(one.id, two.id);
    assert_ne!(one.key.pkcs8(), two.key.pkcs8());
    // Renewal replaces one's own; a failure keeps it.
    fs::rename(dir.path().join("root-key.pem"), dir.path().join("away")).unwrap();
    assert!(svids.rotate_now(&id));
    while svids.statuses().iter().any(|s| s.last_error.is_none()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(svids.ready(&uids[0]).await.unwrap().serial, one.serial);
    svids.retain(|uid| uid == "shop/web-1");
    assert!(svids.ready(&uids[1]).await.is_err());
    assert!(!format!("{:?}", svids.statuses()).contains("PRIVATE"));
}

/// Seconds each.
mod slow {
    use super::*;

    #[test]
    fn a_ban_of_whoever_has_asked_for_very_many_svids_leaves_a_state_that_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, steps) = (open(dir.path()).unwrap(), CaDirectory::open(dir.path()).unwrap());
        let issuer = steps.show().unwrap().x509[0].id.clone();
        let not_after = seconds(SystemTime::now()) + 3600;
        let line = |n: u32| {
            let (serial, id) = (format!("{n:032x}"), web().to_string());
            let issued = Issued { serial, id, not_after, issuer: issuer.clone() };
            format!("\n{}", serde_json::to_string(&issued).unwrap())
        };
        let many: String = (0..130_000).map(line).collect();
        fs::write(dir.path().join("issued.jsonl"), many).unwrap();
        assert_eq!(steps.ban(&web()).unwrap(), 50_000);
        ca.refresh().unwrap();
        assert!(matches!(ca.issue(&web()), Err(CaError::Banned(_))));
        assert!(ca.issue(&"spiffe://cluster.local/ns/shop/sa/db".parse().unwrap()).is_ok());
    }
}
