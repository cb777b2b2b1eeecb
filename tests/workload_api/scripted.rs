//! Our client of the API against one that says what a scenario has it say.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use adit::{
    credentials::{Source, SourceError, Urgency, Wanted, workload_api::WorkloadApi},
    identity::{BundleSet, JwtSigner, PrivateKey, TrustBundle},
    rpc::workload::{JwtBundlesResponse, X509svidResponse},
};
use rcgen::KeyPair;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use super::{
    agent::{self, Agent, Said},
    harness::Test,
    served::Served,
    server::{TWO, block, stream},
};

pub(crate) const TESTS: &[Test] = &[
    ("what_is_taken_back_for_a_moment_stays_in_use", for_a_moment),
    ("what_is_taken_back_for_good_is_dropped", for_good),
    ("what_is_denied_is_dropped_though_the_next_stream_says_nothing_of_use", says_nothing),
    ("a_key_set_that_is_left_out_is_trusted_no_more", left_out),
    ("a_key_set_that_comes_while_svids_settle_is_not_missed", settling),
];

type Answer = Result<X509svidResponse, Status>;
type KeySets = Result<JwtBundlesResponse, Status>;

/// Each call that fetches X.509-SVIDs gets the next stream; without one it is denied. The first
/// that fetches JWT bundles gets the only stream of them.
#[derive(Clone, Default)]
struct Script {
    x509: Arc<Mutex<VecDeque<UnboundedReceiver<Answer>>>>,
    jwt: Arc<Mutex<Option<UnboundedReceiver<KeySets>>>>,
}

impl Script {
    fn next_call(&self) -> UnboundedSender<Answer> {
        let (say, said) = unbounded_channel();
        self.x509.lock().unwrap().push_back(said);
        say
    }
}

impl Agent for Script {
    fn x509_svids(&self) -> Result<Said<X509svidResponse>, Status> {
        let said = self.x509.lock().unwrap().pop_front();
        let said = said.ok_or_else(|| Status::permission_denied("no identity issued"))?;
        Ok(Box::pin(UnboundedReceiverStream::new(said)))
    }

    fn jwt_bundles(&self) -> Result<Said<JwtBundlesResponse>, Status> {
        let said = self.jwt.lock().unwrap().take();
        let said = said.ok_or_else(|| Status::unimplemented(""))?;
        Ok(Box::pin(UnboundedReceiverStream::new(said)))
    }
}

/// The source, what it asks, and an answer with two SVIDs to say.
struct Scene {
    source: WorkloadApi,
    script: Script,
    keys: UnboundedSender<KeySets>,
    both: X509svidResponse,
    one: Wanted,
    two: Wanted,
    _dir: tempfile::TempDir,
}

impl Scene {
    async fn set() -> Self {
        let served = Served::start(TWO);
        let both = stream(&served).await.message().await.unwrap().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("scripted.sock");
        let script = Script::default();
        let (keys, said) = unbounded_channel();
        *script.jwt.lock().unwrap() = Some(said);
        agent::serve(&socket, script.clone());
        let source = WorkloadApi::follow(&socket.display().to_string().parse().unwrap());
        let wanted = |name: &str| Wanted {
            uid: format!("shop/{name}").into(),
            id: format!("spiffe://example.org/{name}").parse().unwrap(),
        };
        Self { source, script, keys, both, one: wanted("one"), two: wanted("two"), _dir: dir }
    }

    fn only_one(&self) -> X509svidResponse {
        let mut answer = self.both.clone();
        answer.svids.retain(|svid| svid.spiffe_id.ends_with("/one"));
        answer
    }

    /// The trust domain has one key, or is left out.
    fn says_keys(&self, there: bool) {
        let key =
            JwtSigner::new(&PrivateKey::from_pkcs8(KeyPair::generate().unwrap().serialize_der()));
        let mut bundle = TrustBundle::new("example.org".parse().unwrap(), Vec::new());
        bundle.jwt_authorities = vec![key.unwrap().authority()];
        let set = ("spiffe://example.org".to_owned(), bundle.to_jwks().to_string().into_bytes());
        let bundles = there.then_some(set).into_iter().collect();
        self.keys.send(Ok(JwtBundlesResponse { bundles })).unwrap();
    }

    /// Waits until the bundle has so many keys for tokens.
    async fn trusts_keys(&self, expected: usize) {
        let mut bundles = self.source.bundles();
        let own = "example.org".parse().unwrap();
        let have = |set: &Arc<BundleSet>| {
            set.get(&own).map_or(0, |bundle| bundle.jwt_authorities.len()) == expected
        };
        let waited = tokio::time::timeout(Duration::from_secs(5), bundles.wait_for(have)).await;
        waited.unwrap_or_else(|_| panic!("never {expected} keys")).unwrap();
    }

    async fn has(&self, wanted: &Wanted) -> Result<(), SourceError> {
        self.source.fetch(wanted, Urgency::OnDemand).await.map(|_| ())
    }

    async fn has_both(&self) {
        for wanted in [&self.one, &self.two] {
            while self.has(wanted).await.is_err() {
                self.source.changed(wanted).await;
            }
        }
    }

    /// Whether the workload hears nothing for longer than a retry takes.
    async fn hears_nothing(&self, wanted: &Wanted) -> bool {
        let heard = self.source.changed(wanted);
        tokio::time::timeout(Duration::from_secs(2), heard).await.is_err()
    }
}

/// As SPIRE's agent does it while it renews the SVIDs of a tainted authority.
fn for_a_moment() {
    block(async {
        let scene = Scene::set().await;
        let first = scene.script.next_call();
        first.send(Ok(scene.both.clone())).unwrap();
        scene.has_both().await;
        first.send(Ok(scene.only_one())).unwrap();
        first.send(Ok(scene.both.clone())).unwrap();
        assert!(scene.hears_nothing(&scene.two).await, "left out, and there again");
        let second = scene.script.next_call();
        second.send(Ok(scene.both.clone())).unwrap();
        first.send(Err(Status::permission_denied("no identity issued"))).unwrap();
        assert!(scene.hears_nothing(&scene.one).await, "denied, and there again");
        scene.has_both().await;
    });
}

fn for_good() {
    block(async {
        let scene = Scene::set().await;
        let first = scene.script.next_call();
        first.send(Ok(scene.both.clone())).unwrap();
        scene.has_both().await;
        first.send(Ok(scene.only_one())).unwrap();
        scene.source.changed(&scene.two).await;
        let gone = scene.has(&scene.two).await.unwrap_err();
        assert!(matches!(gone, SourceError::Withdrawn { .. }), "{gone}");
        scene.has(&scene.one).await.unwrap();
        first.send(Err(Status::permission_denied("no identity issued"))).unwrap();
        scene.source.changed(&scene.one).await;
        let gone = scene.has(&scene.one).await.unwrap_err();
        assert!(matches!(gone, SourceError::Withdrawn { .. }), "{gone}");
    });
}

fn says_nothing() {
    block(async {
        for junk in [false, true] {
            let scene = Scene::set().await;
            let first = scene.script.next_call();
            first.send(Ok(scene.both.clone())).unwrap();
            scene.has_both().await;
            // A stream that begins, and gives nothing.
            let second = scene.script.next_call();
            if junk {
                second.send(Ok(X509svidResponse::default())).unwrap();
            }
            first.send(Err(Status::permission_denied("no identity issued"))).unwrap();
            let dropped = async {
                while !matches!(scene.has(&scene.one).await, Err(SourceError::Withdrawn { .. })) {
                    scene.source.changed(&scene.one).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), dropped).await.expect("dropped");
            second.send(Ok(scene.both.clone())).unwrap();
            scene.has_both().await;
        }
    });
}

/// Workload API §4.4: what the whole state leaves out is redacted.
fn left_out() {
    block(async {
        let scene = Scene::set().await;
        let first = scene.script.next_call();
        first.send(Ok(scene.both.clone())).unwrap();
        scene.has_both().await;
        scene.says_keys(true);
        scene.trusts_keys(1).await;
        scene.says_keys(false);
        scene.trusts_keys(0).await;
    });
}

fn settling() {
    block(async {
        let scene = Scene::set().await;
        let first = scene.script.next_call();
        first.send(Ok(scene.both.clone())).unwrap();
        scene.has_both().await;
        first.send(Ok(scene.only_one())).unwrap();
        // Now it waits whether the other comes again.
        tokio::time::sleep(Duration::from_millis(100)).await;
        scene.says_keys(true);
        scene.trusts_keys(1).await;
    });
}
