mod lifecycle;

use pki_types::UnixTime;

use std::os::unix::fs::PermissionsExt;

use super::{
    store::{KEY, ROOT},
    *,
};
use crate::identity::{BundleSet, Purpose, parse_leaf, verify_svid};

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn open(dir: &Path) -> Result<EmbeddedCa, CaError> {
    EmbeddedCa::open(dir, &domain(), Duration::from_secs(3600))
}

#[test]
fn what_it_issues_verifies_against_its_bundle_in_both_roles() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path()).unwrap();
    let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let svid = ca.issue(&id).unwrap();
    let bundles: BundleSet = [ca.bundle()].into_iter().collect();
    for purpose in [Purpose::Client, Purpose::Server] {
        assert_eq!(verify_svid(&svid.chain, &bundles, UnixTime::now(), purpose).unwrap(), id);
    }
    let lifetime = svid.not_after.duration_since(svid.not_before).unwrap().as_secs();
    assert!((3609..=3611).contains(&lifetime), "{lifetime}");
    assert_ne!(ca.issue(&id).unwrap().serial, svid.serial);
}

#[test]
fn the_root_is_private_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap().bundle();
    assert_eq!(fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(open(dir.path()).unwrap().bundle(), first);
}

#[test]
fn two_processes_that_start_together_share_one_root() {
    let dir = tempfile::tempdir().unwrap();
    let open = || open(dir.path()).unwrap().bundle();
    let bundles: Vec<_> = std::thread::scope(|s| {
        let all: Vec<_> = (0..4).map(|_| s.spawn(open)).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(bundles.iter().all(|b| *b == bundles[0]));
}

#[test]
fn a_link_in_the_directory_leads_nowhere() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    open(dir.path()).unwrap().issue(&id).unwrap();
    for name in [".lock", "issued.jsonl", "authorities.json"] {
        let (here, there) = (dir.path().join(name), other.path().join(name));
        fs::rename(&here, &there).unwrap();
        let before = fs::read(&there).unwrap();
        std::os::unix::fs::symlink(&there, &here).unwrap();
        let shown = CaDirectory::open(dir.path()).map(|_| ());
        let issued = open(dir.path()).and_then(|ca| ca.issue(&id)).map(|_| ());
        if name != "issued.jsonl" {
            assert!(shown.unwrap_err().to_string().contains("it is a link"), "{name}");
        }
        assert!(issued.unwrap_err().to_string().contains("it is a link"), "{name}");
        assert_eq!(fs::read(&there).unwrap(), before, "{name}");
        fs::rename(&there, &here).unwrap();
    }
    open(dir.path()).unwrap().issue(&id).unwrap();
}

#[test]
fn refusals_name_the_file_and_the_reason() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 6] = [
        ("root-key.pem: is missing, but", |d| fs::remove_file(d.join(KEY)).unwrap()),
        ("root.pem: is missing, but", |d| fs::remove_file(d.join(ROOT)).unwrap()),
        ("root-key.pem: users other than its owner", |d| {
            fs::set_permissions(d.join(KEY), fs::Permissions::from_mode(0o604)).unwrap();
        }),
        ("root-key.pem: users other than its owner", |d| {
            fs::set_permissions(d.join(KEY), fs::Permissions::from_mode(0o640)).unwrap();
        }),
        ("root.pem: does not belong to the key", |d| {
            let other = KeyPair::generate().unwrap().serialize_pem();
            fs::write(d.join(KEY), other).unwrap();
        }),
        ("root.pem: contains 0 PEM certificates", |d| fs::write(d.join(ROOT), "nonsense").unwrap()),
    ];
    for (expected, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap();
        damage(dir.path());
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    let other =
        EmbeddedCa::open(dir.path(), &"other.test".parse().unwrap(), Duration::from_secs(60));
    assert!(other.unwrap_err().to_string().contains("is the root of spiffe://cluster.local"));
}

#[test]
fn it_issues_only_workloads_of_its_own_trust_domain_and_only_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path()).unwrap();
    for id in ["spiffe://other.test/ns/a/sa/b", "spiffe://cluster.local"] {
        assert!(matches!(ca.issue(&id.parse().unwrap()), Err(CaError::NotOurs { .. })), "{id}");
    }
    let id = "spiffe://cluster.local/ns/a/sa/b".parse().unwrap();
    fs::rename(dir.path().join(KEY), dir.path().join("away")).unwrap();
    assert!(matches!(ca.issue(&id), Err(CaError::File { .. })));
    fs::rename(dir.path().join("away"), dir.path().join(KEY)).unwrap();
    assert!(ca.issue(&id).is_ok());
}

#[test]
fn nothing_that_it_issues_outlives_its_authority() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path()).unwrap();
    let x509 = CaDirectory::open(dir.path()).unwrap().show().unwrap().x509.swap_remove(0);
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(x509.not_after);
    let (id, key) =
        ("spiffe://cluster.local/ns/a/sa/b".parse().unwrap(), KeyPair::generate().unwrap());
    let century = Duration::from_secs(100 * 365 * 86_400);
    for lifetime in [century, Duration::MAX] {
        let chain = ca.sign(&id, &key, lifetime).unwrap();
        assert_eq!(parse_leaf(&chain[0]).unwrap().not_after, end, "{lifetime:?}");
    }
    let named = ca.certify_names(&["ca.test".to_owned()], &key, century).unwrap();
    assert!(named.not_after <= end);
}

#[test]
fn a_jwt_key_that_was_taken_away_signs_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path()).unwrap();
    let id = "spiffe://cluster.local/ns/a/sa/b".parse().unwrap();
    let sign = || ca.sign_jwt(&id, &["bank".to_owned()]);
    sign().unwrap();
    let jwt = CaDirectory::open(dir.path()).unwrap().show().unwrap().jwt.swap_remove(0);
    let (key, away) = (dir.path().join(&jwt.key), dir.path().join("away"));
    fs::rename(&key, &away).unwrap();
    assert!(sign().unwrap_err().to_string().contains("is missing"));
    fs::rename(&away, &key).unwrap();
    sign().unwrap();
    fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(sign().unwrap_err().to_string().contains("changed"));
}
