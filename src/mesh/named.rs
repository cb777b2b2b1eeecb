//! Services that share a host name or an address: nearly always one.

use std::{slice, sync::Arc};

use super::{Service, map::Keyed};

/// At least one, in the order of their namespaces and host names.
#[derive(Clone)]
pub(super) enum Services {
    /// No list to go through.
    One(Arc<Service>),
    Several(Arc<[Arc<Service>]>),
}

fn rank(service: &Service) -> (&str, &str) {
    (&service.namespace, &service.hostname)
}

impl Services {
    pub(super) fn as_slice(&self) -> &[Arc<Service>] {
        match self {
            Self::One(service) => slice::from_ref(service),
            Self::Several(services) => services,
        }
    }

    /// `there` with `new` in place of the one with its namespace and host name, if there is one.
    pub(super) fn with(there: Option<&Self>, new: &Arc<Service>) -> Self {
        let others = there.map_or(&[][..], Self::as_slice).iter();
        let others = others.filter(|other| rank(other) != rank(new));
        let mut all: Vec<_> = others.chain([new]).cloned().collect();
        all.sort_by(|a, b| rank(a).cmp(&rank(b)));
        Self::of(all).unwrap_or_else(|| Self::One(Arc::clone(new)))
    }

    /// `self` without this one, if any is left.
    pub(super) fn without(&self, old: &Service) -> Option<Self> {
        let others = self.as_slice().iter().filter(|other| rank(other) != rank(old));
        Self::of(others.cloned().collect())
    }

    fn of(mut all: Vec<Arc<Service>>) -> Option<Self> {
        match all.len() {
            0 | 1 => all.pop().map(Self::One),
            _ => Some(Self::Several(all.into())),
        }
    }
}

/// The one that a caller of `namespace` means: of those that it sees the one of its own namespace,
/// then the canonical one, then the first.
pub(super) fn meant<'a>(all: &'a [Arc<Service>], namespace: &str) -> Option<&'a Arc<Service>> {
    let seen = || all.iter().filter(|service| service.is_visible_to(namespace));
    let own = seen().find(|service| *service.namespace == *namespace);
    own.or_else(|| seen().find(|service| service.is_canonical)).or_else(|| seen().next())
}

/// The services of one host name, which stands here too: where a service is and what its host name
/// is are then read at once and not one after the other.
#[derive(Clone)]
pub(super) struct Host {
    hostname: Arc<str>,
    pub(super) services: Services,
}

impl Host {
    pub(super) fn new(hostname: &Arc<str>, services: Services) -> Self {
        Self { hostname: Arc::clone(hostname), services }
    }
}

impl Keyed for Host {
    type Key = str;

    fn key(&self) -> &str {
        &self.hostname
    }
}
