//! The streams of one pod: kept open, opened again when they break, moved to another connection
//! when adit's own SVID changes, without a gap.

use std::{sync::Arc, time::Duration};

use futures_util::future;
use pki_types::UnixTime;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    answers::{Answers, PodAnswer},
    client::BrokerClient,
    local_identity::{LocalIdentity, ProviderConnections},
    reference::Reference,
    refusal::{Judged, judge},
};
use crate::{
    credentials::{
        Wanted,
        svid_cache::{Meaning, SvidCache},
        workload_api::{
            client::{ClientError, Updates, X509Context},
            source::{HOPELESS, LONGEST, begun, waits},
        },
    },
    identity::{BundleSet, Purpose, X509Svid, verify_svid},
    rpc::workload::X509svidResponse,
};

/// How often the process of a pod is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// When to try again to move to a connection that could not be made.
const MOVE_AGAIN: Duration = Duration::from_secs(2);

/// Follows one pod.
#[derive(Clone)]
pub(super) struct Follower {
    pub(super) wanted: Wanted,
    pub(super) reference: Arc<Reference>,
    pub(super) cache: Arc<SvidCache>,
    pub(super) own: watch::Receiver<LocalIdentity>,
    pub(super) refresh: Arc<Notify>,
    pub(super) answers: Arc<Answers>,
    pub(super) slot: usize,
}

/// Why a message is not taken.
enum NotTaken {
    /// The stream goes on.
    Message(Meaning, String),
    /// The stream has ended.
    Stream(ClientError),
}

impl Follower {
    /// All of them, until the task is cut or the pod's process has ended.
    pub(super) async fn run(self) {
        let reference = Arc::clone(&self.reference);
        let (answers, cache) = (Arc::clone(&self.answers), Arc::clone(&self.cache));
        let uid = Arc::clone(&self.wanted.uid);
        let pid = tokio::select! {
            pid = ended(&reference) => pid,
            ((), ()) = future::join(self.clone().jwt_bundles(), self.x509()) => return,
        };
        // What has its ID next is another's (Broker API §4.9).
        answers.withdraw(&uid);
        let why = format!("process {pid}, which identified the pod, has ended");
        tracing::warn!(target: "svid", workload = %uid, error = why, "SVID dropped");
        cache.tell(Meaning::Withdrawn, why);
    }

    /// SVIDs with their bundles.
    async fn x509(mut self) {
        let mut waits_left = waits();
        let mut had = false;
        loop {
            let connections = self.connections().await;
            let judged = match self.open(&connections).await {
                Err(error) => judge(&error),
                Ok(opened) => {
                    let (judged, taken) = self.read(opened, had).await;
                    if taken {
                        (had, waits_left) = (true, waits());
                    }
                    judged
                }
            };
            if judged.refresh {
                self.refresh.notify_one();
            }
            let meaning = if had { judged.meaning } else { judged.first() };
            self.say(meaning, judged.why);
            let wait = waits_left.next().unwrap_or(LONGEST);
            sleep(if judged.hopeless { HOPELESS } else { wait }).await;
        }
    }

    /// The way to the provider, once there is one.
    async fn connections(&mut self) -> Arc<ProviderConnections> {
        loop {
            match self.own.borrow_and_update().clone() {
                Some(Ok(connections)) => return connections,
                Some(Err(why)) => self.cache.failed(why),
                None => {}
            }
            if self.own.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A stream with its first message, which comes without delay (Broker API §4.4).
    async fn open(&self, connections: &ProviderConnections) -> Result<Opened, ClientError> {
        begun(async {
            let mut updates =
                BrokerClient::new(connections.channel(self.slot), &self.reference).x509().await?;
            match updates.next().await {
                Err(error) if !matches!(error, ClientError::Unusable(_)) => Err(error),
                first => Ok((updates, first)),
            }
        })
        .await
    }

    /// Takes what comes until the stream ends. Why it did, and whether anything was taken.
    async fn read(&mut self, (mut updates, first): Opened, had: bool) -> (Judged, bool) {
        let (mut message, mut taken) = (first, false);
        let mut retry: Option<Instant> = None;
        loop {
            match self.take(message, had || taken) {
                Ok(()) => taken = true,
                Err(NotTaken::Message(meaning, why)) => self.say(meaning, why),
                Err(NotTaken::Stream(error)) => return (judge(&error), taken),
            }
            message = loop {
                tokio::select! {
                    message = updates.next() => break message,
                    Ok(()) = self.own.changed() => {}
                    () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
                }
                // The old stream stays until the new one has begun.
                let own = self.own.borrow_and_update().clone();
                let moved = match own {
                    None => continue,
                    Some(Ok(connections)) => self.open(&connections).await,
                    Some(Err(why)) => return (Judged { why, ..judge(&ClientError::Ended) }, taken),
                };
                match moved {
                    Ok((new, first)) => {
                        (updates, retry) = (new, None);
                        break first;
                    }
                    Err(error) if judge(&error).meaning == Meaning::Withdrawn => break Err(error),
                    Err(error) => {
                        tracing::debug!(
                            target: "svid", workload = %self.wanted.uid, %error,
                            "keeping the stream on the old connection"
                        );
                        retry = Some(Instant::now() + MOVE_AGAIN);
                    }
                }
            };
        }
    }

    /// One message: the whole state of this pod.
    fn take(&self, message: Result<X509Context, ClientError>, had: bool) -> Result<(), NotTaken> {
        let X509Context { svids, bundles } = message.map_err(|error| match error {
            ClientError::Unusable(why) => NotTaken::Message(Meaning::Unusable, why),
            error => NotTaken::Stream(error),
        })?;
        let gave: Vec<_> = svids.iter().take(8).map(|s| s.svid.id.to_string()).collect();
        let Some(own) = svids.into_iter().find(|hinted| hinted.svid.id == self.wanted.id) else {
            let (meaning, verb) = match had {
                true => (Meaning::Withdrawn, "now gives"),
                false => (Meaning::Unusable, "gave"),
            };
            return Err(NotTaken::Message(
                meaning,
                format!("it {verb} {} for {}", gave.join(", "), self.wanted.uid),
            ));
        };
        self.keep(own.svid, bundles).map_err(|(meaning, why)| NotTaken::Message(meaning, why))
    }

    fn keep(&self, svid: X509Svid, bundles: BundleSet) -> Result<(), (Meaning, String)> {
        let unusable = |why: String| (Meaning::Unusable, why);
        // One that peers would refuse is no use to anybody.
        verify_svid(&svid.chain, &bundles, UnixTime::now(), Purpose::Client)
            .map_err(|e| unusable(e.to_string()))?;
        let leaf = svid.chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
        let public_key = leaf.map(|(_, leaf)| leaf.public_key().raw.to_vec());
        let public_key =
            public_key.ok_or_else(|| unusable("its answer has no certificate".into()))?;
        let answer = PodAnswer { public_key, not_after: svid.not_after, bundles: bundles.clone() };
        self.answers.take(&self.wanted.uid, answer).map_err(|other| {
            let why = format!(
                "it gave the same key as to {other}, but each pod needs its own key; register each \
                 pod separately with the SPIFFE provider, for example by its UID"
            );
            (Meaning::Refused, why)
        })?;
        tracing::debug!(
            target: "svid", workload = %self.wanted.uid, serial = svid.serial,
            "SVID received"
        );
        self.cache.publish(vec![svid], bundles);
        Ok(())
    }

    fn say(&self, meaning: Meaning, why: String) {
        tracing::warn!(
            target: "svid", workload = %self.wanted.uid, source = self.cache.name(), error = why,
            %meaning,
            "SVID not renewed"
        );
        if meaning == Meaning::Withdrawn {
            self.answers.withdraw(&self.wanted.uid);
        }
        self.cache.tell(meaning, why);
    }

    /// JWT authorities are an extra: without them X.509 goes on.
    async fn jwt_bundles(mut self) {
        let mut waits_left = waits();
        loop {
            let connections = self.connections_silently().await;
            let client = BrokerClient::new(connections.channel(self.slot), &self.reference);
            let error = match begun(client.jwt_bundles()).await {
                Err(error) => Some(error),
                Ok(mut updates) => loop {
                    let sets = tokio::select! {
                        sets = updates.next() => sets,
                        Ok(()) = self.own.changed() => break None,
                    };
                    match sets {
                        Ok(sets) => {
                            waits_left = waits();
                            self.answers.jwt(&self.wanted.uid, Some(sets));
                        }
                        Err(error) => break Some(error),
                    }
                },
            };
            let Some(error) = error else { continue };
            let judged = judge(&error);
            tracing::debug!(
                target: "svid", workload = %self.wanted.uid, error = judged.why,
                "no update of JWT bundles; keeping the previous ones"
            );
            if judged.meaning == Meaning::Withdrawn {
                self.answers.jwt(&self.wanted.uid, None);
            }
            let wait = waits_left.next().unwrap_or(LONGEST);
            sleep(if judged.hopeless { HOPELESS } else { wait }).await;
        }
    }

    async fn connections_silently(&mut self) -> Arc<ProviderConnections> {
        loop {
            if let Some(Ok(connections)) = self.own.borrow_and_update().clone() {
                return connections;
            }
            if self.own.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A stream, and the first message that it had.
type Opened = (Updates<X509svidResponse>, Result<X509Context, ClientError>);

/// Waits until the process of a reference has ended; for ever if it has none.
async fn ended(reference: &Reference) -> u32 {
    loop {
        if let Some(pid) = reference.ended() {
            return pid;
        }
        sleep(LOOK).await;
    }
}
