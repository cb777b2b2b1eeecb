//! Rules, compiled when a local workload's are first asked for; workloads of a namespace that the
//! same policies select share them.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{
    Workload,
    map::{Keyed, Map},
    scopes::{Scopes, about},
};
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

/// Whose rules they are: the namespace, and the policies that select by label.
#[derive(Clone, Eq, Hash, PartialEq)]
pub(super) struct Selected {
    namespace: Arc<str>,
    policies: Arc<[Arc<str>]>,
}

impl Selected {
    pub(super) fn of(workload: &Workload) -> Self {
        let (namespace, policies) = (workload.namespace(), workload.policies());
        Self { namespace: Arc::clone(namespace), policies: Arc::clone(policies) }
    }
}

#[derive(Clone)]
struct OfSet {
    selected: Selected,
    rules: Arc<Rules>,
}

impl Keyed for OfSet {
    type Key = Selected;

    fn key(&self) -> &Selected {
        &self.selected
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

    pub(super) fn rules(
        &self,
        (known, scopes): (&Map<NamedPolicy>, &Scopes),
        workload: &Workload,
    ) -> Arc<Rules> {
        let selected = Selected::of(workload);
        if let Some(there) = self.sets.load().get(&selected) {
            return Arc::clone(&there.rules);
        }
        let names = scopes.of(&selected.namespace).chain(selected.policies.iter());
        let rules = Arc::new(compile(known, names));
        let new = OfSet { selected, rules: Arc::clone(&rules) };
        self.change(|sets| drop(sets.insert(new.clone())));
        rules
    }

    /// For views in which the policy `key` says something else than `old`, or nothing any more.
    pub(super) fn without_policy(&self, key: &str, old_and_new: [Option<&Policy>; 2]) -> Self {
        let scopes: Vec<_> = old_and_new.into_iter().flatten().filter_map(about).collect();
        self.without(key, &scopes)
    }

    /// For views in which the policy `key`, or any about these namespaces, is another.
    pub(super) fn without(&self, key: &str, scopes: &[&str]) -> Self {
        let mut sets = (**self.sets.load()).clone();
        let is_about = |of: &Selected| {
            scopes.iter().any(|scope| scope.is_empty() || **scope == *of.namespace)
                || of.policies.iter().any(|name| **name == *key)
        };
        let stale = sets.iter().map(|of| &of.selected).filter(|of| is_about(of));
        for selected in stale.cloned().collect::<Vec<_>>() {
            sets.remove(&selected);
        }
        Self { sets: ArcSwap::from_pointee(sets), deny_all: self.deny_all() }
    }

    /// The workloads that had these may be gone: they are compiled again if others have them.
    pub(super) fn forget(&self, selected: &Selected) {
        if self.sets.load().get(selected).is_some() {
            self.change(|sets| drop(sets.remove(selected)));
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

/// A policy that is not known could be one that denies: then all calls are denied.
fn compile<'a>(known: &Map<NamedPolicy>, names: impl Iterator<Item = &'a Arc<str>>) -> Rules {
    let mut missing = None;
    let policies = names.filter_map(|key| {
        let policy = known.get(key).map(|named| &named.policy);
        if policy.is_none() {
            missing.get_or_insert(key);
        }
        policy
    });
    let rules = Rules::compile(policies);
    match missing {
        Some(missing) => rules.without(missing),
        None => rules,
    }
}
