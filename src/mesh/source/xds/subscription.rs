//! One type of resources on one stream: what is new in a response, and what is in force after it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use super::{
    held::{ENTRY, Held, Version},
    message::{Delta, MAX_NAME, MAX_RESOURCES, MAX_VERSION, Upserted},
    nack::{RejectedResource, short},
    type_url::TypeUrl,
};
use crate::rpc::discovery::{DeltaDiscoveryResponse, Resource};

/// Of how many rejected resources it is kept why.
const MAX_REJECTED: usize = 1000;

/// The resources of one type.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) type_url: TypeUrl,
    pub(super) held: Held,
    /// The next response is everything that there is: what it does not name is gone.
    pub(super) next_is_whole: bool,
    /// A response of this stream has been applied.
    pub(super) answered: bool,
    rejected: BTreeMap<Arc<str>, String>,
    version: String,
    applied: Option<Instant>,
}

/// What is known of the resources of one type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TypeStatus {
    /// When a response was last applied; `None` before the first.
    pub applied: Option<Instant>,
    /// What the control plane called its version.
    pub version: String,
    /// How many resources are in force.
    pub resources: usize,
    /// Which resources are rejected in their newest version, and why (at most 1,000).
    pub rejected: BTreeMap<Arc<str>, String>,
}

/// A response whose changes are being applied.
#[derive(Debug)]
pub(super) struct Taken {
    news: Vec<(Arc<str>, Version)>,
    removed: Vec<Arc<str>>,
    pub(super) faults: Vec<RejectedResource>,
    version: String,
    /// What was named without news, and so is right as it is.
    unchanged: Vec<Arc<str>>,
    whole: bool,
}

impl Subscription {
    pub(super) fn new(type_url: TypeUrl) -> Self {
        Self {
            type_url,
            held: Held::default(),
            next_is_whole: false,
            answered: false,
            rejected: BTreeMap::new(),
            version: String::new(),
            applied: None,
        }
    }

    pub(super) fn status(&self) -> TypeStatus {
        TypeStatus {
            applied: self.applied,
            version: self.version.clone(),
            resources: self.held.len(),
            rejected: self.rejected.clone(),
        }
    }

    /// What a new stream is told of: what is in force, and what was refused and stands for something
    /// all the same, without a version, so that its removal is told too.
    pub(super) fn told(&self) -> HashMap<String, String> {
        let mut all = self.held.versions();
        for name in self.rejected.keys() {
            all.entry(name.to_string()).or_default();
        }
        all
    }

    /// How long that is in a request, at most.
    pub(super) fn told_bytes(&self) -> usize {
        self.held.bytes() + self.rejected.keys().map(|name| name.len() + ENTRY).sum::<usize>()
    }

    /// What a response changes. Nothing is in force by that alone.
    pub(super) fn take(&mut self, response: DeltaDiscoveryResponse) -> (Delta, Taken) {
        let type_url = self.type_url;
        let whole = std::mem::take(&mut self.next_is_whole);
        let (upserted, refused, removed) = (Vec::new(), Vec::new(), Vec::new());
        let mut delta = Delta { type_url, upserted, refused, removed };
        let mut taken = Taken {
            news: Vec::new(),
            removed: Vec::new(),
            faults: Vec::new(),
            version: response.system_version_info.chars().take(MAX_VERSION).collect(),
            unchanged: Vec::new(),
            whole,
        };
        // Where a name has its place, or none if it changes nothing.
        let mut named: HashMap<Arc<str>, Option<usize>> = HashMap::new();
        let mut new_names = 0;
        for resource in response.resources {
            let (name, version, value) = match self.checked(resource, new_names) {
                Ok(checked) => checked,
                Err((refused, fault)) => {
                    // It is there, so what is in force of it stays.
                    named.entry(Arc::clone(&refused.name)).or_default();
                    delta.refused.push(refused);
                    taken.faults.push(fault);
                    continue;
                }
            };
            let version = self.held.version(&version, &value);
            let upserted = Upserted { name: Arc::clone(&name), value };
            if let Some(&Some(at)) = named.get(&name) {
                // Named twice: the later counts.
                delta.upserted[at] = upserted;
                taken.news[at].1 = version;
            } else if self.held.has(&name, &version) {
                taken.unchanged.push(Arc::clone(&name));
                named.insert(name, None);
            } else {
                new_names += usize::from(self.held.name(&name).is_none());
                named.insert(Arc::clone(&name), Some(delta.upserted.len()));
                delta.upserted.push(upserted);
                taken.news.push((name, version));
            }
        }
        delta.removed = self.gone(&response.removed_resources, whole.then_some(&named), &delta);
        for name in &delta.removed {
            self.rejected.remove(name);
        }
        taken.removed.clone_from(&delta.removed);
        (delta, taken)
    }

    #[allow(clippy::type_complexity, reason = "told in one place")]
    fn checked(
        &self,
        resource: Resource,
        new_names: usize,
    ) -> Result<(Arc<str>, String, bytes::Bytes), (Upserted, RejectedResource)> {
        let Resource { name: text, version, resource: content, .. } = resource;
        let name = self.known_as(&text);
        let is_new = self.held.name(&name).is_none();
        let content = content.ok_or_else(|| "has no content".to_owned()).and_then(|content| {
            match content.type_url == self.type_url.as_str() {
                true => Ok(content.value),
                false => Err(format!("its content is of type {:?}", short(&content.type_url))),
            }
        });
        let fault = match &content {
            _ if text.is_empty() => "has no name".to_owned(),
            _ if text.len() > MAX_NAME => format!("its name is longer than {MAX_NAME} bytes"),
            _ if version.len() > MAX_VERSION => {
                format!("its version is longer than {MAX_VERSION} bytes")
            }
            Err(why) => why.clone(),
            Ok(_) if is_new && self.held.len() + new_names >= MAX_RESOURCES => {
                format!("there are more than {MAX_RESOURCES} resources")
            }
            Ok(value) => return Ok((name, version, value.clone())),
        };
        let fault = RejectedResource::new(Arc::clone(&name), &fault);
        Err((Upserted { name, value: content.unwrap_or_default() }, fault))
    }

    /// A name as it is kept, or as far as it is where it is too long.
    fn known_as(&self, text: &str) -> Arc<str> {
        match self.held.name(text) {
            Some(kept) => Arc::clone(kept),
            None if text.len() > MAX_NAME => short(text).into(),
            None => text.into(),
        }
    }

    /// The names that are in force, or come into force by `delta`, or were refused, and are no more.
    fn gone(
        &self,
        removed: &[String],
        whole: Option<&HashMap<Arc<str>, Option<usize>>>,
        delta: &Delta,
    ) -> Vec<Arc<str>> {
        let mut gone: HashSet<Arc<str>> = HashSet::new();
        let comes: HashSet<&str> = match removed.is_empty() {
            true => HashSet::new(),
            false => delta.upserted.iter().map(|u| &*u.name).collect(),
        };
        // A policy that was refused long ago may be lacking still.
        let any = self.type_url == TypeUrl::Authorization;
        gone.extend(removed.iter().map(|name| self.known_as(name)).filter(|name| {
            let is_known = self.held.name(name).is_some() || comes.contains(&**name);
            any || is_known || self.rejected.contains_key(name)
        }));
        if let Some(named) = whole {
            let known = self.held.names().chain(self.rejected.keys());
            gone.extend(known.filter(|name| !named.contains_key(*name)).map(Arc::clone));
        }
        gone.into_iter().collect()
    }

    /// The changes are in force, but for those with a fault, whose last good version stays.
    /// Returns all faults of the response.
    pub(super) fn applied(
        &mut self,
        taken: Taken,
        faults: Vec<RejectedResource>,
        now: Instant,
    ) -> Vec<RejectedResource> {
        let Taken { news, removed, faults: mut all, version, unchanged, whole } = taken;
        if whole {
            self.rejected.clear();
        }
        for name in &unchanged {
            self.rejected.remove(name);
        }
        let refused: HashSet<Arc<str>> = faults.iter().map(|f| Arc::clone(&f.name)).collect();
        all.extend(faults);
        for (name, version) in news {
            if !refused.contains(&name) {
                self.rejected.remove(&name);
                self.held.insert(name, version);
            }
        }
        for fault in &all {
            if self.rejected.len() < MAX_REJECTED {
                self.rejected.insert(Arc::clone(&fault.name), fault.reason.clone());
            }
        }
        for name in &removed {
            self.rejected.remove(name);
            self.held.remove(name);
        }
        (self.version, self.applied, self.answered) = (version, Some(now), true);
        all
    }
}
