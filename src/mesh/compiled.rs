//! Rules, compiled when a local workload's are first asked for; workloads that the same
//! policies select share them.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::map::{Keyed, Map};
use crate::policy::{Policy, Rules};

/// A policy under the name by which workloads know it.
#[derive(Clone)]
pub(super) struct NamedPolicy {
    pub(super) key: Arc<str>,
    pub(super) policy: Arc<Policy>,
}

impl Keyed for NamedPolicy {
    type Key = str;

    fn key(&self) -> &str {
        &self.key
    }
}

/// Shared by all views with the same policies: whoever has one with others has other rules.
pub(super) struct Compiled {
    sets: ArcSwap<Map<OfSet>>,
    deny_all: Arc<Rules>,
}

#[derive(Clone)]
struct OfSet {
    policies: Arc<[Arc<str>]>,
    rules: Arc<Rules>,
}

impl Keyed for OfSet {
    type Key = [Arc<str>];

    fn key(&self) -> &[Arc<str>] {
        &self.policies
    }
}

impl Default for Compiled {
    fn default() -> Self {
        Self { sets: ArcSwap::default(), deny_all: Arc::new(Rules::deny_all()) }
    }
}

impl Compiled {
    pub(super) fn deny_all(&self) -> Arc<Rules> {
        Arc::clone(&self.deny_all)
    }

    pub(super) fn rules(&self, known: &Map<NamedPolicy>, set: &Arc<[Arc<str>]>) -> Arc<Rules> {
        if let Some(there) = self.sets.load().get(set) {
            return Arc::clone(&there.rules);
        }
        let rules = Arc::new(compile(known, set));
        let new = OfSet { policies: Arc::clone(set), rules: Arc::clone(&rules) };
        self.change(|sets| drop(sets.insert(new.clone())));
        rules
    }

    /// For views in which `policy` says something else.
    pub(super) fn without_policy(&self, policy: &str) -> Self {
        let mut sets = (**self.sets.load()).clone();
        let names = |of: &&OfSet| of.policies.iter().any(|key| **key == *policy);
        let stale: Vec<_> = sets.iter().filter(names).map(|of| Arc::clone(&of.policies)).collect();
        stale.iter().for_each(|set| drop(sets.remove(set)));
        Self { sets: ArcSwap::from_pointee(sets), deny_all: self.deny_all() }
    }

    /// No workload has this set any more.
    pub(super) fn forget(&self, set: &[Arc<str>]) {
        if self.sets.load().get(set).is_some() {
            self.change(|sets| drop(sets.remove(set)));
        }
    }

    fn change(&self, change: impl Fn(&mut Map<OfSet>)) {
        self.sets.rcu(|sets| {
            let mut sets = (**sets).clone();
            change(&mut sets);
            sets
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sets.load().len()
    }
}

/// A policy that is not known could be one that denies: then nobody may call.
fn compile(known: &Map<NamedPolicy>, set: &[Arc<str>]) -> Rules {
    let found: Result<Vec<_>, &Arc<str>> =
        set.iter().map(|key| known.get(key).map(|named| &named.policy).ok_or(key)).collect();
    match found {
        Ok(policies) => Rules::compile(policies.into_iter()),
        Err(missing) => Rules::without(missing),
    }
}
