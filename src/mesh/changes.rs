//! What became different between two views.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{MtlsMode, Service, Workload, scopes::about};
use crate::policy::Policy;

/// What happened to one resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change<T> {
    /// It was not there before.
    Added(Arc<T>),
    /// It says something else now.
    Changed {
        /// What it said.
        before: Arc<T>,
        /// What it says.
        after: Arc<T>,
    },
    /// It is not there any more.
    Removed(Arc<T>),
}

impl<T> Change<T> {
    /// What was there.
    #[must_use]
    pub fn before(&self) -> Option<&Arc<T>> {
        match self {
            Self::Added(_) => None,
            Self::Changed { before, .. } | Self::Removed(before) => Some(before),
        }
    }

    /// What is there.
    #[must_use]
    pub fn after(&self) -> Option<&Arc<T>> {
        match self {
            Self::Removed(_) => None,
            Self::Changed { after, .. } | Self::Added(after) => Some(after),
        }
    }

    fn either(&self) -> &Arc<T> {
        match self {
            Self::Changed { after: of, .. } | Self::Added(of) | Self::Removed(of) => of,
        }
    }
}

/// What became different, each resource once, in no order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// Workloads.
    pub workloads: Vec<Change<Workload>>,
    /// Services.
    pub services: Vec<Change<Service>>,
    /// Policies.
    pub policies: Vec<Change<Policy>>,
    /// The namespaces of a policy that cannot be read now, or could not be read before; the empty
    /// one is the mesh.
    pub lacking: HashSet<Arc<str>>,
    /// Whether plaintext is taken now where it was refused, or the other way round.
    pub mtls: bool,
}

impl Changes {
    /// Whether nothing did.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whose rules are others now.
    #[must_use]
    pub fn rules(&self) -> RulesChanged {
        let of = |w: &Arc<Workload>| (Arc::clone(w.namespace()), Arc::clone(w.policies()));
        let selected = |w: &Change<Workload>| w.before().map(of) != w.after().map(of);
        let workloads = self.workloads.iter().filter(|w| selected(w));
        let ends = |p: &Change<Policy>| [p.before().cloned(), p.after().cloned()];
        let policies = self.policies.iter().flat_map(ends).flatten();
        let mut scopes: HashSet<Arc<str>> =
            policies.filter_map(|policy| about(&policy).map(Into::into)).collect();
        scopes.extend(self.lacking.iter().cloned());
        RulesChanged {
            everywhere: self.mtls || scopes.contains(""),
            namespaces: scopes,
            workloads: workloads.map(|w| Arc::clone(&w.either().uid)).collect(),
            policies: self.policies.iter().map(|p| p.either().key().into()).collect(),
        }
    }
}

/// Whose rules became others; see [`Changes::rules`].
#[derive(Debug)]
pub struct RulesChanged {
    everywhere: bool,
    namespaces: HashSet<Arc<str>>,
    workloads: HashSet<Arc<str>>,
    policies: HashSet<Arc<str>>,
}

impl RulesChanged {
    /// Whether nobody's did.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.everywhere
            && self.namespaces.is_empty()
            && self.workloads.is_empty()
            && self.policies.is_empty()
    }

    /// Whether a workload's did.
    #[must_use]
    pub fn of(&self, workload: &Workload) -> bool {
        self.everywhere
            || self.namespaces.contains(workload.namespace())
            || self.workloads.contains(&workload.uid)
            || workload.policies().iter().any(|key| self.policies.contains(key))
    }
}

type Touched<K, T> = HashMap<K, Option<Arc<T>>, RandomState>;

/// What was there at the last view, of what was touched since.
#[derive(Default)]
pub(super) struct Before {
    pub(super) workloads: Touched<Arc<str>, Workload>,
    pub(super) services: Touched<(Arc<str>, Arc<str>), Service>,
    pub(super) policies: Touched<Arc<str>, Policy>,
    pub(super) lacking: HashSet<Arc<str>>,
    pub(super) mtls: Option<MtlsMode>,
}

/// One change for each key whose value is another than before.
pub(super) fn between<K: Eq + Hash, T: PartialEq>(
    before: Touched<K, T>,
    now: impl Fn(&K) -> Option<Arc<T>>,
) -> Vec<Change<T>> {
    let change = |(key, before): (K, Option<Arc<T>>)| match (before, now(&key)) {
        (None, Some(after)) => Some(Change::Added(after)),
        (Some(before), None) => Some(Change::Removed(before)),
        (Some(before), Some(after)) if before != after => Some(Change::Changed { before, after }),
        _ => None,
    };
    before.into_iter().filter_map(change).collect()
}
