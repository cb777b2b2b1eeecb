//! The workloads behind each service, by what they say themselves: they may come before it.

use std::sync::Arc;

use super::{
    Workload,
    map::{Keyed, Map},
};

/// So many are kept in one list …
const FEW: usize = 64;
/// … and a map becomes a list again with so many.
const FEW_AGAIN: usize = 32;

/// The workloads behind one service. A change copies the list of a small one, and a part of the map
/// of a large one.
#[derive(Clone)]
pub(super) enum Endpoints {
    /// In the order of their uids.
    Few(Arc<[Arc<Workload>]>),
    Many(Map<Arc<Workload>>),
}

impl Default for Endpoints {
    fn default() -> Self {
        Self::Few(Arc::default())
    }
}

impl Endpoints {
    fn insert(&mut self, new: &Arc<Workload>) {
        match self {
            Self::Few(list) => {
                let mut all = list.to_vec();
                match all.binary_search_by(|there| there.uid.cmp(&new.uid)) {
                    Ok(at) => all[at] = Arc::clone(new),
                    Err(at) => all.insert(at, Arc::clone(new)),
                }
                if all.len() <= FEW {
                    *list = all.into();
                    return;
                }
                let mut map = Map::default();
                all.into_iter().for_each(|one| drop(map.insert(one)));
                *self = Self::Many(map);
            }
            Self::Many(map) => drop(map.insert(Arc::clone(new))),
        }
    }

    fn remove(&mut self, uid: &str) {
        match self {
            Self::Few(list) => {
                *list = list.iter().filter(|one| *one.uid != *uid).cloned().collect()
            }
            Self::Many(map) => {
                map.remove(uid);
                if map.len() <= FEW_AGAIN {
                    let mut all: Vec<_> = map.iter().cloned().collect();
                    all.sort_by(|a, b| a.uid.cmp(&b.uid));
                    *self = Self::Few(all.into());
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Few(list) if list.is_empty())
    }

    /// Those of one service.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        let (few, many) = match self {
            Self::Few(list) => (Some(list.iter()), None),
            Self::Many(map) => (None, Some(map.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

/// Those behind the services of one host name, by namespace.
#[derive(Clone)]
pub(super) struct Backed {
    hostname: Arc<str>,
    by: Box<[(Arc<str>, Endpoints)]>,
}

impl Keyed for Backed {
    type Key = str;

    fn key(&self) -> &str {
        &self.hostname
    }
}

impl Backed {
    pub(super) fn of(&self, namespace: &str) -> Option<&Endpoints> {
        Some(&self.by.iter().find(|(of, _)| **of == *namespace)?.1)
    }
}

/// `new` is behind the services that it names, in place of `old`.
pub(super) fn change(
    all: &mut Map<Backed>,
    (old, new): (Option<&Workload>, Option<&Arc<Workload>>),
) {
    for was in old.iter().flat_map(|old| old.services()) {
        let stays = |new: &&Arc<Workload>| new.membership(&was.namespace, &was.hostname).is_some();
        if new.as_ref().filter(|new| stays(new)).is_some() {
            continue;
        }
        let Some(mut backed) = all.remove(&was.hostname) else { continue };
        let uid = old.map_or("", |old| &old.uid);
        let mut by = backed.by.into_vec();
        by.iter_mut().filter(|(of, _)| *of == was.namespace).for_each(|(_, them)| them.remove(uid));
        by.retain(|(_, them)| !them.is_empty());
        if !by.is_empty() {
            backed.by = by.into();
            all.insert(backed);
        }
    }
    let Some(new) = new else { return };
    for is in new.services() {
        let empty = || Backed { hostname: Arc::clone(&is.hostname), by: Box::default() };
        // Taken out meanwhile, so that what no view has is changed in its place.
        let mut backed = all.remove(&is.hostname).unwrap_or_else(empty);
        match backed.by.iter_mut().find(|(of, _)| *of == is.namespace) {
            Some((_, them)) => them.insert(new),
            None => {
                let mut them = Endpoints::default();
                them.insert(new);
                let mut by = backed.by.into_vec();
                by.push((Arc::clone(&is.namespace), them));
                by.sort_by(|(a, _), (b, _)| a.cmp(b));
                backed.by = by.into();
            }
        }
        all.insert(backed);
    }
}
