//! SVIDs from a SPIFFE Broker API: a node proxy asks for those of the pods that it carries.
//!
//! **Incubating**: written to spiffe/spiffe at 665a28f (2026-07-01), `SPIFFE_Broker_API.md` and
//! `SPIFFE_Broker_Endpoint.md`; it may change with them. adit gets an SVID of its own from the
//! Workload API ([`local_identity`]), shows it to the provider, whose SPIFFE ID it checks, and
//! keeps one subscription per attached pod ([`follower`]), by a reference to that pod
//! ([`mod@reference`]).
//!
//! What an answer says concerns its pod only (Broker API §4.2): its key is given to that pod, and
//! a trust domain is trusted only as far as the answers for *all* pods say ([`answers`]), as a node
//! has one set of bundles.

mod answers;
mod client;
mod config;
mod endpoint;
mod follower;
mod local_identity;
mod reference;
mod refusal;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{Notify, watch};

pub use config::BrokerConfig;
pub use endpoint::{BrokerEndpoint, InvalidBrokerEndpoint, SOCKET_VARIABLE};

use self::{
    answers::Answers,
    follower::Follower,
    local_identity::{LocalIdentity, LocalIdentityFollower},
    reference::Reference,
};
use super::{
    AttachedAs, Source, SourceError, Urgency, Wanted,
    svid_cache::{Meaning, SvidCache},
    workload_api::client::Client as WorkloadApi,
};
use crate::{
    identity::{BundleSet, X509Svid},
    lifecycle::Tasks,
};

/// The source.
pub struct Broker {
    name: String,
    remote: bool,
    own: watch::Sender<LocalIdentity>,
    refresh: Arc<Notify>,
    answers: Arc<Answers>,
    tasks: Tasks,
    pods: Mutex<Pods>,
}

/// Which pods there are, and which of them are asked for.
#[derive(Default)]
struct Pods {
    carried: HashMap<Arc<str>, AttachedAs>,
    followed: HashMap<Arc<str>, Followed>,
}

/// A pod that is asked for.
struct Followed {
    wanted: Wanted,
    reference: Arc<Reference>,
    /// Which place it has among the connections.
    slot: usize,
    cache: Arc<SvidCache>,
    tasks: Tasks,
}

impl Broker {
    /// Asks for adit's own SVID from now on, and for those of pods once they are wanted. Needs a
    /// running runtime.
    #[must_use]
    pub fn follow(config: BrokerConfig) -> Self {
        let name = format!("Broker API {}", config.socket);
        tracing::warn!(
            target: "svid", source = name,
            "ca.broker: the SPIFFE Broker API is incubating (spiffe/spiffe 665a28f) and may change"
        );
        let (own, _) = watch::channel(None);
        let (refresh, tasks) = (Arc::<Notify>::default(), Tasks::default());
        let remote = config.socket.is_remote();
        let client = WorkloadApi::new(&config.workload_api);
        let follower = LocalIdentityFollower {
            client,
            config,
            say: own.clone(),
            refresh: Arc::clone(&refresh),
        };
        tasks.spawn(follower.run());
        let (answers, pods) = (Arc::default(), Mutex::default());
        Self { name, remote, own, refresh, answers, tasks, pods }
    }

    /// The subscription of a pod, which begins with the first call.
    fn pod(&self, wanted: &Wanted) -> Result<(Arc<SvidCache>, Arc<Reference>, usize), SourceError> {
        let mut pods = self.lock();
        if let Some(pod) = pods.followed.get(&wanted.uid).filter(|pod| pod.wanted == *wanted) {
            return Ok((Arc::clone(&pod.cache), Arc::clone(&pod.reference), pod.slot));
        }
        let Some(carried) = pods.carried.get(&wanted.uid) else {
            return Err(self.refused(wanted, "it serves attached pods only".into()));
        };
        let reference = Reference::of(carried, self.remote).map_err(|e| self.refused(wanted, e))?;
        if let Some(old) = pods.followed.remove(&wanted.uid) {
            self.end(&wanted.uid, &old);
        }
        let taken: Vec<_> = pods.followed.values().map(|pod| pod.slot).collect();
        let slot = (0..=taken.len()).find(|n| !taken.contains(n)).unwrap_or_default();
        let (reference, cache) = (
            Arc::new(reference),
            Arc::new(SvidCache::new(format!("{} ({})", self.name, wanted.uid))),
        );
        self.answers.begin(&wanted.uid);
        let tasks = self.tasks.child();
        let follower = Follower {
            wanted: wanted.clone(),
            reference: Arc::clone(&reference),
            cache: Arc::clone(&cache),
            own: self.own.subscribe(),
            refresh: Arc::clone(&self.refresh),
            answers: Arc::clone(&self.answers),
            slot,
        };
        tasks.spawn(follower.run());
        let pod = Followed {
            wanted: wanted.clone(),
            reference: Arc::clone(&reference),
            slot,
            cache: Arc::clone(&cache),
            tasks,
        };
        pods.followed.insert(Arc::clone(&wanted.uid), pod);
        Ok((cache, reference, slot))
    }

    /// Its streams end, and its keys are dropped (Broker API §4.9).
    fn end(&self, uid: &str, pod: &Followed) {
        pod.tasks.cut();
        self.answers.end(uid);
        pod.cache.tell(Meaning::Withdrawn, "the pod is gone".into());
    }

    async fn jwt(&self, wanted: &Wanted, audiences: &[String]) -> Result<String, SourceError> {
        let (cache, reference, slot) = self.pod(wanted)?;
        if let Some(pid) = reference.ended() {
            return Err(self.refused(wanted, format!("process {pid} has ended")));
        }
        let own = self.own.borrow().clone();
        let own = own.unwrap_or_else(|| Err("adit has no SVID of its own yet".into()));
        let connections = own.map_err(|why| cache.error(wanted, &(Meaning::Later, why)))?;
        let client = client::BrokerClient::new(connections.channel(slot), &reference);
        let tokens = client.jwt(audiences, &wanted.id).await.map_err(|error| {
            let judged = refusal::judge(&error);
            if judged.refresh {
                self.refresh.notify_one();
            }
            cache.error(wanted, &(judged.first(), judged.why))
        })?;
        let token = tokens.into_iter().next().map(|hinted| hinted.token);
        token.ok_or_else(|| cache.unavailable("it gave no token".to_owned()))
    }

    fn refused(&self, wanted: &Wanted, why: String) -> SourceError {
        SourceError::Refused { source_name: self.name.clone(), id: wanted.id.clone(), why }
    }

    fn lock(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

impl Source for Broker {
    fn kind(&self) -> &'static str {
        "broker"
    }

    fn bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.answers.trusted()
    }

    fn fetch<'a>(
        &'a self,
        wanted: &'a Wanted,
        _urgency: Urgency,
    ) -> BoxFuture<'a, Result<X509Svid, SourceError>> {
        async move {
            let (cache, ..) = self.pod(wanted)?;
            cache.fetch(wanted).await
        }
        .boxed()
    }

    /// A pod that was made anew, with another UID or process, is another: what was there for the
    /// old one is dropped.
    fn carries(&self, now: &[AttachedAs]) {
        let mut pods = self.lock();
        let now: HashMap<_, _> =
            now.iter().map(|pod| (Arc::clone(&pod.uid), pod.clone())).collect();
        let before = std::mem::replace(&mut pods.carried, now);
        let Pods { carried, followed } = &mut *pods;
        followed.retain(|uid, pod| {
            let stays = carried.get(uid).is_some_and(|now| before.get(uid) == Some(now));
            if !stays {
                self.end(uid, pod);
            }
            stays
        });
    }

    fn forget(&self, uid: &str) {
        if let Some(pod) = self.lock().followed.remove(uid) {
            self.end(uid, &pod);
        }
    }

    fn fetch_jwt<'a>(
        &'a self,
        wanted: &'a Wanted,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<String, SourceError>> {
        self.jwt(wanted, audiences).boxed()
    }

    fn changed<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, ()> {
        let cache = self.lock().followed.get(&wanted.uid).map(|pod| Arc::clone(&pod.cache));
        async move {
            match cache {
                Some(cache) => cache.changed(wanted).await,
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}
