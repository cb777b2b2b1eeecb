//! The policies that are about a whole namespace, or about the whole mesh.

use std::sync::Arc;

use super::map::{Keyed, Map};
use crate::policy::{Policy, Scope};

/// Their names, by namespace; those of the mesh stand under the empty one.
#[derive(Clone, Default)]
pub(super) struct Scopes(Map<Scoped>);

#[derive(Clone)]
struct Scoped {
    namespace: Arc<str>,
    policies: Arc<[Arc<str>]>,
}

impl Keyed for Scoped {
    type Key = str;

    fn key(&self) -> &str {
        &self.namespace
    }
}

/// The namespace of a policy that selects nobody by label; empty for that of the whole mesh.
pub(super) fn about(policy: &Policy) -> Option<&str> {
    match policy.scope {
        Scope::Global => Some(""),
        Scope::Namespace => Some(&policy.namespace),
        _ => None,
    }
}

impl Scopes {
    /// Those about every workload of a namespace, the mesh's first.
    pub(super) fn of(&self, namespace: &str) -> impl Iterator<Item = &Arc<str>> {
        let of = |name: &str| self.0.get(name).map(|scoped| scoped.policies.iter());
        of("").into_iter().flatten().chain(of(namespace).into_iter().flatten())
    }

    /// A policy says something else now, or is gone.
    pub(super) fn change(&mut self, key: &Arc<str>, old: Option<&Policy>, new: Option<&Policy>) {
        let (was, is) = (old.and_then(about), new.and_then(about));
        if was == is {
            return;
        }
        if let Some(namespace) = was {
            self.set(key, namespace, false);
        }
        if let Some(namespace) = is {
            self.set(key, namespace, true);
        }
    }

    /// A policy about a namespace, or about the mesh if that is empty, is there or not any more.
    pub(super) fn set(&mut self, key: &Arc<str>, namespace: &str, is_there: bool) {
        self.edit(namespace, |names| {
            names.retain(|name| name != key);
            if is_there {
                names.push(Arc::clone(key));
                names.sort();
            }
        });
    }

    fn edit(&mut self, namespace: &str, edit: impl FnOnce(&mut Vec<Arc<str>>)) {
        let there = self.0.get(namespace);
        let mut names = there.map(|scoped| scoped.policies.to_vec()).unwrap_or_default();
        edit(&mut names);
        if names.is_empty() {
            self.0.remove(namespace);
        } else {
            self.0.insert(Scoped { namespace: namespace.into(), policies: names.into() });
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
