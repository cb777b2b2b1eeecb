use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair,
    KeyUsagePurpose as Ku, SanType,
};
use tokio::time::{Duration, timeout};

use super::*;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![Ku::KeyCertSign];
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

/// Certificate and key, PEM.
fn svid(by: &Authority, id: &str, until: Duration) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now - Duration::from_secs(1800) + until).into();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![Ku::DigitalSignature];
    params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
    (params.signed_by(&key, &by.issuer).unwrap().pem(), key.serialize_pem())
}

const WEB: &str = "spiffe://td/ns/shop/sa/web";
const HOUR: Duration = Duration::from_secs(3600);

fn put(path: &Path, text: &str) {
    let temp = path.with_extension("new");
    fs::write(&temp, text).unwrap();
    fs::rename(&temp, path).unwrap();
}

struct Folder {
    dir: tempfile::TempDir,
    files: Files,
    wanted: Wanted,
}

impl Folder {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A folder as Kubernetes mounts it, with a set in it.
    fn new(by: &Authority) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (certificate, key) = svid(by, WEB, HOUR);
        put(&path("tls.crt"), &certificate);
        put(&path("tls.key"), &key);
        put(&path("ca.crt"), &by.pem);
        let (certificate, private_key) = (path("tls.crt"), path("tls.key"));
        let credential = Credential::Pem { certificate, private_key };
        let config = FilesConfig { credential, bundle: path("ca.crt") };
        let files = Files::open(config, "td".parse().unwrap());
        let wanted = Wanted { uid: "shop/web".into(), id: WEB.parse().unwrap() };
        Self { dir, files, wanted }
    }

    async fn fetch(&self) -> Result<X509Svid, SourceError> {
        self.files.fetch(&self.wanted, Urgency::OnDemand).await
    }

    /// What comes of the next change.
    async fn next(&self) -> Result<X509Svid, SourceError> {
        let changed = self.files.changed(&self.wanted);
        timeout(Duration::from_secs(10), changed).await.expect("a change is noticed");
        self.fetch().await
    }
}

#[tokio::test]
async fn a_set_is_taken_when_it_fits_together_and_else_the_last_one_stays() {
    let by = authority();
    let folder = Folder::new(&by);
    let first = folder.fetch().await.unwrap();
    assert_eq!(first.id.as_str(), WEB);
    assert_eq!(folder.files.bundles().borrow().iter().count(), 1);
    // Half of a new pair.
    let (certificate, key) = svid(&by, WEB, HOUR);
    put(&folder.path("tls.crt"), &certificate);
    let half = folder.next().await.unwrap_err().to_string();
    assert!(half.contains("private key does not belong to the certificate"), "{half}");
    put(&folder.path("tls.key"), &key);
    let second = folder.next().await.unwrap();
    assert_ne!(second.serial, first.serial);
    for (certificate, says) in [
        (svid(&by, WEB, Duration::ZERO), "expired"),
        (svid(&by, "spiffe://other/ns/shop/sa/web", HOUR), "the mesh file says td"),
        (svid(&authority(), WEB, HOUR), "does not lead to the bundle"),
    ] {
        put(&folder.path("tls.key"), &certificate.1);
        put(&folder.path("tls.crt"), &certificate.0);
        let mut refused = folder.next().await.unwrap_err().to_string();
        if refused.contains("private key does not") {
            refused = folder.next().await.unwrap_err().to_string(); // looked in between
        }
        assert!(refused.contains(says) && refused.contains("tls.crt"), "{refused}");
    }
}

/// As `openssl ecparam -genkey` and older tools write keys.
#[tokio::test]
async fn a_key_in_sec1_serves_tls_as_one_in_pkcs8_does() {
    let by = authority();
    let folder = Folder::new(&by);
    folder.fetch().await.unwrap();
    let (fresh, key) = svid(&by, WEB, HOUR);
    fs::write(folder.path("pkcs8"), key).unwrap();
    let done = std::process::Command::new("openssl")
        .args(["ec", "-in"])
        .arg(folder.path("pkcs8"))
        .output()
        .unwrap();
    let sec1 = String::from_utf8(done.stdout).unwrap();
    assert!(sec1.contains("BEGIN EC PRIVATE KEY"), "{sec1:.40}");
    put(&folder.path("tls.key"), &sec1);
    put(&folder.path("tls.crt"), &fresh);
    let mut taken = folder.next().await;
    if taken.is_err() {
        taken = folder.next().await; // looked in between
    }
    let key = pki_types::PrivatePkcs8KeyDer::from(taken.unwrap().key.pkcs8().to_vec());
    rustls::crypto::aws_lc_rs::sign::any_supported_type(&key.into()).unwrap();
}

#[tokio::test]
async fn files_that_somebody_touches_all_the_time_are_taken_all_the_same() {
    let by = authority();
    let folder = Folder::new(&by);
    let first = folder.fetch().await.unwrap();
    let (certificate, key) = svid(&by, WEB, HOUR);
    put(&folder.path("tls.key"), &key);
    put(&folder.path("tls.crt"), &certificate);
    let touch = async {
        loop {
            put(&folder.path("ca.crt"), &by.pem);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = touch => {}
        taken = folder.next() => assert_ne!(taken.unwrap().serial, first.serial),
    }
}

/// Seconds each.
mod slow {
    use super::*;

    #[tokio::test]
    async fn a_thousand_rewrites_leave_a_good_set() {
        let by = authority();
        let folder = Folder::new(&by);
        folder.fetch().await.unwrap();
        let sets: Vec<_> = (0..20).map(|_| svid(&by, WEB, HOUR)).collect();
        for n in 0..1000 {
            let (certificate, key) = &sets[n % sets.len()];
            fs::write(folder.path("tls.key"), key).unwrap(); // in place
            put(&folder.path("tls.crt"), certificate); // by rename
            if n % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        }
        let last = crate::identity::parse_leaf(
            &pki_types::pem::PemObject::from_pem_slice(sets[999 % sets.len()].0.as_bytes())
                .unwrap(),
        );
        let last = last.unwrap().serial;
        let settled = async {
            while folder.next().await.map(|svid| svid.serial).ok().as_ref() != Some(&last) {}
        };
        timeout(Duration::from_secs(20), settled).await.expect("the last set is taken");
    }
}
