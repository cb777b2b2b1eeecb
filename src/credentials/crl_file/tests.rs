use std::fs;

use pki_types::UnixTime;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;

use super::*;
use crate::identity::{Purpose, SvidError, TrustBundle, verify_svid};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

struct World {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    leaf: Vec<pki_types::CertificateDer<'static>>,
    source: watch::Sender<Arc<BundleSet>>,
    tasks: Tasks,
}

impl World {
    fn new() -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.serial_number = Some(SerialNumber::from(7_u64));
        params.subject_alt_names = vec![SanType::URI("spiffe://td/web".try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let leaf = vec![params.signed_by(&key, &issuer).unwrap().der().clone()];
        let bundle = TrustBundle::new("td".parse().unwrap(), vec![root]);
        let (source, _) = watch::channel(Arc::new([bundle].into_iter().collect()));
        let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::default());
        Self { dir, issuer, leaf, source, tasks }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("ca-crl.pem")
    }

    /// The file as another writes it who replaces it whole.
    fn write(&self, text: &str) {
        fs::write(self.dir.path().join("next"), text).unwrap();
        fs::rename(self.dir.path().join("next"), self.path()).unwrap();
    }

    fn crl(&self, serials: &[u64]) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + std::time::Duration::from_secs(3600),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn follow(&self) -> (Receiver<Arc<BundleSet>>, Receiver<CrlFileStatus>) {
        let source = Arc::new(Bundles(self.source.clone()));
        let with = WithCrls::follow(source, self.path(), &self.tasks);
        (with.bundles(), with.status())
    }

    fn judged(&self, bundles: &BundleSet) -> Result<(), SvidError> {
        verify_svid(&self.leaf, bundles, UnixTime::now(), Purpose::Client).map(drop)
    }

    /// Waits until the leaf is judged so.
    async fn until(
        &self,
        bundles: &mut Receiver<Arc<BundleSet>>,
        so: impl Fn(&Result<(), SvidError>) -> bool,
    ) {
        let judged = bundles.wait_for(|bundles| so(&self.judged(bundles)));
        drop(tokio::time::timeout(LIMIT, judged).await.expect("in time").unwrap());
    }
}

/// A source that gives no SVIDs.
struct Bundles(watch::Sender<Arc<BundleSet>>);

impl Source for Bundles {
    fn kind(&self) -> &'static str {
        "none"
    }

    fn bundles(&self) -> Receiver<Arc<BundleSet>> {
        self.0.subscribe()
    }

    fn fetch<'a>(
        &'a self,
        wanted: &'a Wanted,
        _: Urgency,
    ) -> BoxFuture<'a, Result<X509Svid, SourceError>> {
        let none = SourceError::NotWanted(wanted.uid.to_string());
        std::future::ready(Err(none)).boxed()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

fn is_revoked(judged: &Result<(), SvidError>) -> bool {
    matches!(judged, Err(SvidError::Revoked { .. }))
}

#[tokio::test]
async fn what_the_file_names_is_revoked_and_is_not_once_it_names_it_no_more() {
    let world = World::new();
    world.write(&world.crl(&[7]));
    let (mut bundles, status) = world.follow();
    world.until(&mut bundles, is_revoked).await;
    assert_eq!(status.borrow().in_force.map(|(lists, _)| lists), Some(1));
    world.write(&world.crl(&[8]));
    world.until(&mut bundles, Result::is_ok).await;
}

/// As `curl > file` leaves it whose server is away, or a full disk.
#[tokio::test]
async fn a_file_that_becomes_empty_revokes_as_before() {
    let world = World::new();
    world.write(&world.crl(&[7]));
    let (mut bundles, mut status) = world.follow();
    world.until(&mut bundles, is_revoked).await;
    for empty in ["", " \n"] {
        world.write(empty);
        let told = status.wait_for(|status| {
            status.error.as_ref().is_some_and(|why| why.contains("write a CRL without entries"))
        });
        drop(tokio::time::timeout(LIMIT, told).await.expect("it is said").unwrap());
        assert!(is_revoked(&world.judged(&bundles.borrow())), "{empty:?}");
        assert_eq!(status.borrow().in_force.map(|(lists, _)| lists), Some(1));
        world.write(&world.crl(&[7, 8]));
        let read = status.wait_for(|status| status.error.is_none());
        drop(tokio::time::timeout(LIMIT, read).await.expect("it is read").unwrap());
    }
    world.write(&world.crl(&[]));
    world.until(&mut bundles, Result::is_ok).await;
}

#[tokio::test]
async fn a_file_that_was_empty_from_the_start_revokes_nobody_and_may_stay_so() {
    let world = World::new();
    world.write("");
    let (mut bundles, mut status) = world.follow();
    world.until(&mut bundles, Result::is_ok).await;
    assert_eq!(status.borrow().in_force.map(|(lists, _)| lists), Some(0));
    let first = status.borrow_and_update().in_force;
    world.write("\n");
    let again = status.wait_for(|status| status.in_force != first);
    let again = tokio::time::timeout(LIMIT, again).await.expect("it is read").unwrap().clone();
    assert_eq!((again.in_force.map(|(lists, _)| lists), again.error), (Some(0), None));
    world.write(&world.crl(&[7]));
    world.until(&mut bundles, is_revoked).await;
}

#[tokio::test]
async fn nobody_is_believed_until_the_file_was_read_once() {
    for (text, told) in [
        (None, "No such file"),
        (Some("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"), "line 1"),
        (Some("not a list\n"), "contains no PEM CRL"),
    ] {
        let world = World::new();
        text.iter().for_each(|text| world.write(text));
        let (mut bundles, mut status) = world.follow();
        let error = status.wait_for(|status| status.error.is_some());
        let error = tokio::time::timeout(LIMIT, error).await.unwrap().unwrap().error.clone();
        assert!(error.as_ref().unwrap().contains(told), "{error:?}");
        world
            .until(&mut bundles, |judged| match judged {
                Err(SvidError::Withheld(why)) => why.contains("ca-crl.pem") && why.contains(told),
                other => panic!("{other:?}"),
            })
            .await;
        world.write(&world.crl(&[]));
        world.until(&mut bundles, Result::is_ok).await;
        assert_eq!(status.borrow().error, None);
    }
}

#[tokio::test]
async fn what_cannot_be_read_later_changes_nothing_but_what_is_said() {
    let world = World::new();
    world.write(&world.crl(&[7]));
    let (mut bundles, mut status) = world.follow();
    world.until(&mut bundles, is_revoked).await;
    for text in [Some("not a list\n"), None] {
        match text {
            Some(text) => world.write(text),
            None => fs::remove_file(world.path()).unwrap(),
        }
        status.mark_unchanged();
        let told = status.wait_for(|status| {
            let missing = |why: &String| why.contains("No such file");
            status.error.as_ref().is_some_and(|why| missing(why) == text.is_none())
        });
        drop(tokio::time::timeout(LIMIT, told).await.expect("it is said").unwrap());
        assert!(is_revoked(&world.judged(&bundles.borrow())), "{text:?}");
    }
}

/// The roots are exchanged: the lists count for those of now.
#[tokio::test]
async fn the_lists_go_with_whatever_bundles_the_source_has() {
    let world = World::new();
    world.write(&world.crl(&[7]));
    let bundle = Arc::clone(&world.source.borrow());
    world.source.send_replace(Arc::default());
    let (mut bundles, _status) = world.follow();
    let unknown = |judged: &Result<(), _>| matches!(judged, Err(SvidError::UnknownTrustDomain(_)));
    world.until(&mut bundles, unknown).await;
    world.source.send_replace(bundle);
    world.until(&mut bundles, is_revoked).await;
}
