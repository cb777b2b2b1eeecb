//! Whether pods were made anew: the same name, another namespace.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;

use super::{Carried, PodManager};
use crate::{lifecycle::blocking, sys::netns::Netns};

/// How long the name of a namespace may be missing until its pod counts as gone.
const MISSING_FOR: Duration = Duration::from_secs(3);

/// How often it is looked whether pods were made anew.
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl Carried {
    /// Whether its name stands for another namespace than when it was started, or for none for
    /// longer than a moment: the pod was made anew, and nothing protects the new one yet. That
    /// its namespace could not be looked at says nothing about it.
    fn has_moved(&mut self, found: io::Result<(u64, u64)>) -> bool {
        let missing = matches!(&found, Err(error) if error.kind() == io::ErrorKind::NotFound);
        self.missing = missing.then(|| self.missing.unwrap_or_else(Instant::now));
        if let (Err(error), false, false) = (&found, missing, self.unknown) {
            let workload = &*self.facts;
            tracing::warn!(
                %workload, %error,
                "the pod's network namespace cannot be inspected; the pod continues unchanged"
            );
        }
        self.unknown = found.is_err() && !missing;
        match found {
            Ok(key) => key != self.pod.netns.key(),
            Err(_) => self.missing.is_some_and(|since| since.elapsed() > MISSING_FOR),
        }
    }
}

impl PodManager {
    /// Looks whether pods were made anew, until it is dropped: where looking takes long, nobody
    /// else waits.
    pub async fn watch_namespaces(self: Arc<Self>) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let of = |c: &Carried| {
                let netns = c.facts.netns.named()?;
                Some((Arc::clone(&c.facts.uid), c.pod.netns.key(), netns.path()))
            };
            let all: Vec<_> = self.with(|pods| pods.values().filter_map(of).collect());
            let look = move || {
                let found =
                    all.into_iter().map(|(uid, key, path)| (uid, key, Netns::key_of(&path)));
                found.collect::<Vec<_>>()
            };
            let Ok(looked) = blocking(look).await else { continue };
            let any = self.with(|pods| {
                let mut any = false;
                for (uid, key, found) in looked {
                    if let Some(c) = pods.get_mut(&uid).filter(|c| c.pod.netns.key() == key) {
                        c.moved = c.has_moved(found);
                        any |= c.moved;
                    }
                }
                any
            });
            if any {
                self.moved.notify_one();
            }
        }
    }

    /// Waits until a pod was made anew under its old name. Cancel safe.
    pub async fn any_moved(&self) {
        self.moved.notified().await;
    }
}
