//! Who waits for which key.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::oneshot;

use super::message::Answer;

/// From how many keys on those that nobody waits for are looked for.
const MANY: usize = 64;
/// How many may wait for one key.
const MOST_OF_ONE: usize = 4096;

/// A connection that waits for a key.
#[derive(Debug)]
pub(super) struct Demand {
    pub(super) key: Arc<str>,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Waiting(HashMap<Arc<str>, Vec<oneshot::Sender<Answer>>>);

impl Waiting {
    /// Keeps it, unless too many wait for the key. Returns keys that nobody waits for any more.
    pub(super) fn add(&mut self, demand: Demand) -> Vec<Arc<str>> {
        let Demand { key, answer } = demand;
        let of_key = self.0.entry(key).or_default();
        of_key.retain(|waits| !waits.is_closed());
        if of_key.len() < MOST_OF_ONE {
            of_key.push(answer);
        }
        if self.0.len() < MANY { Vec::new() } else { self.abandoned() }
    }

    fn abandoned(&mut self) -> Vec<Arc<str>> {
        let nobody = |(_, of_key): &(&Arc<str>, &mut Vec<oneshot::Sender<Answer>>)| {
            of_key.iter().all(oneshot::Sender::is_closed)
        };
        let gone: Vec<_> =
            self.0.iter_mut().filter(nobody).map(|(key, _)| Arc::clone(key)).collect();
        for key in &gone {
            self.0.remove(key);
        }
        gone
    }

    /// Nobody will answer it.
    pub(super) fn refuse(&mut self, key: &str) {
        self.0.remove(key);
    }

    pub(super) fn answer(&mut self, key: &str, answer: Answer) {
        for waits in self.0.remove(key).into_iter().flatten() {
            // Who has gone meanwhile needs no answer.
            let _ = waits.send(answer);
        }
    }
}
