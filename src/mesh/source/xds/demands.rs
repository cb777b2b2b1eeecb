//! Keys that are asked for one by one, in on-demand mode: an address as `network/ip`, a workload's
//! uid, or a service as `namespace/hostname`.

use std::{collections::HashSet, sync::Arc};

use super::message::Answer;
use crate::rpc::discovery::DeltaDiscoveryResponse;

/// How many keys may wait for an answer at once, and how many it is remembered of that this stream
/// has asked for them.
pub(super) const MAX_PENDING: usize = 4096;
const MAX_ASKED: usize = 1 << 17;

/// What is asked for.
#[derive(Debug, Default)]
pub(super) struct Demands {
    pending: HashSet<Arc<str>>,
    /// What this stream is subscribed to by name.
    asked: HashSet<Arc<str>>,
    /// How often a key was asked for again.
    again: u64,
}

/// What is to be sent for a demand.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Ask {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
}

/// What a response says of keys that somebody waits for, before anything is applied.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The key, and the resource that has it as its name or one of its aliases.
    named: Vec<(Arc<str>, String)>,
    absent: Vec<Arc<str>>,
}

impl Demands {
    /// What is to be asked; nothing if somebody waits for the key already, `None` if too many wait.
    pub(super) fn add(&mut self, key: &Arc<str>) -> Option<Ask> {
        if self.pending.contains(key) {
            return Some(Ask::default());
        }
        if self.pending.len() >= MAX_PENDING {
            return None;
        }
        self.pending.insert(Arc::clone(key));
        if self.asked.len() >= MAX_ASKED {
            self.asked.clear();
        }
        let mut ask = Ask { subscribe: vec![key.to_string()], unsubscribe: Vec::new() };
        if !self.asked.insert(Arc::clone(key)) {
            self.make_news(&mut ask);
        }
        Some(ask)
    }

    /// istiod answers a request only if it subscribes to something new, and one that only
    /// unsubscribes with the removal of all that is subscribed to. So a key that is asked for again
    /// comes with a name that nothing has, in a namespace that cannot be.
    fn make_news(&mut self, ask: &mut Ask) {
        let nothing = |n: u64| format!("-/again-{n}");
        if self.again > 0 {
            ask.unsubscribe.push(nothing(self.again));
        }
        self.again += 1;
        ask.subscribe.push(nothing(self.again));
    }

    /// Nobody waits for the key any more.
    pub(super) fn forget(&mut self, key: &str) {
        self.pending.remove(key);
    }

    /// A new stream knows nothing; what is still waited for is asked for again.
    pub(super) fn restart(&mut self) -> Vec<String> {
        self.asked.clone_from(&self.pending);
        self.again = 0;
        let mut all: Vec<String> = self.pending.iter().map(|key| key.to_string()).collect();
        all.sort_unstable();
        all
    }

    pub(super) fn heard(&self, response: &DeltaDiscoveryResponse) -> Answers {
        let mut answers = Answers::default();
        if self.pending.is_empty() {
            return answers;
        }
        for resource in &response.resources {
            let names = std::iter::once(&resource.name).chain(&resource.aliases);
            let keys = names.filter_map(|name| self.pending.get(name.as_str()));
            answers.named.extend(keys.map(|key| (Arc::clone(key), resource.name.clone())));
        }
        let absent = response.removed_resources.iter();
        answers.absent.extend(absent.filter_map(|name| self.pending.get(name.as_str())).cloned());
        answers
    }

    /// Who can go on, once the response is applied; `is_held` says which resources are in force.
    pub(super) fn answered(
        &mut self,
        answers: Answers,
        is_held: impl Fn(&str) -> bool,
    ) -> Vec<(Arc<str>, Answer)> {
        let named = answers.named.into_iter().map(|(key, resource)| match is_held(&resource) {
            true => (key, Answer::Found),
            false => (key, Answer::Rejected),
        });
        // One name may be an alias of several, and be sent and removed in one response.
        let absent = answers.absent.into_iter().map(|key| (key, Answer::Absent));
        let all: Vec<_> = named.chain(absent).collect();
        all.into_iter().filter(|(key, _)| self.pending.remove(key)).collect()
    }
}
