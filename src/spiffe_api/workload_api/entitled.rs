//! Which caller gets which identities. Pure: what is known of the caller and what is registered
//! come in, the identities come out, the default one first.

use std::{path::PathBuf, sync::Arc};

use crate::identity::SpiffeId;

/// What is registered: replaced whole.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Registrations {
    /// The pods that this node carries.
    pub pods: Vec<AttachedPod>,
    /// The entries of the mesh file, in its order.
    pub entries: Vec<Entry>,
}

/// A pod that this node carries: who calls from its network namespace is its workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttachedPod {
    /// The workload's uid, `namespace/name`.
    pub uid: Arc<str>,
    /// Its identity.
    pub id: SpiffeId,
    /// Its network namespace ([`crate::sys::netns::Netns::key`]).
    pub netns: (u64, u64),
}

/// An identity for the callers that its selectors match, all of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The identity.
    pub id: SpiffeId,
    /// What it is for; may be empty.
    pub hint: Arc<str>,
    /// For whom. At least one is given, or nobody matches.
    pub selectors: Selectors,
}

/// Which callers: each that is given must match.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selectors {
    /// The effective user.
    pub uid: Option<u32>,
    /// The effective group.
    pub gid: Option<u32>,
    /// The executable: the file that adit itself sees at this path.
    pub path: Option<PathBuf>,
    /// The uid of a workload whose pod the caller is in.
    pub workload: Option<Arc<str>>,
    /// The UID of the Kubernetes pod that the caller's cgroup names.
    pub pod_uid: Option<Arc<str>>,
}

/// What is known of a caller. What could not be found out is absent and matches nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CallerFacts {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its executable.
    pub path: Option<PathBuf>,
    /// The UID of its Kubernetes pod.
    pub pod_uid: Option<String>,
    /// Its network namespace.
    pub netns: Option<(u64, u64)>,
}

/// One identity that a caller gets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entitlement {
    /// Under which uid [`crate::credentials::Svids`] holds it.
    pub held_as: Arc<str>,
    /// The identity.
    pub id: SpiffeId,
    /// What it is for; may be empty, else unique in a list.
    pub hint: Arc<str>,
}

/// How the uids begin under which SVIDs of entries are held. No workload's does: `:` is in no
/// name of theirs.
pub const HELD_AS: &str = "workload-api:";

impl Entry {
    /// Under which uid its SVID is held.
    #[must_use]
    pub fn held_as(&self) -> Arc<str> {
        format!("{HELD_AS}{}", self.id).into()
    }
}

/// The identities of a caller: its pod's own first, then what entries add, each identity once.
/// An entry for an identity that is there already gives it a hint, and a hint that is taken is
/// left out (Workload API §5.2.1).
#[must_use]
pub fn entitled(registered: &Registrations, caller: &CallerFacts) -> Vec<Entitlement> {
    let pod = registered.pods.iter().find(|pod| Some(pod.netns) == caller.netns);
    let own = |pod: &AttachedPod| Entitlement {
        held_as: pod.uid.clone(),
        id: pod.id.clone(),
        hint: "".into(),
    };
    let mut all: Vec<Entitlement> = pod.map(own).into_iter().collect();
    for entry in registered.entries.iter().filter(|e| matches(&e.selectors, caller, pod)) {
        let taken = all.iter().any(|given| given.hint == entry.hint);
        let hint = if taken { "".into() } else { entry.hint.clone() };
        match all.iter_mut().find(|given| given.id == entry.id) {
            Some(given) if given.hint.is_empty() => given.hint = hint,
            Some(_) => {}
            None => {
                let (held_as, id) = (entry.held_as(), entry.id.clone());
                all.push(Entitlement { held_as, id, hint });
            }
        }
    }
    all
}

fn matches(selectors: &Selectors, caller: &CallerFacts, pod: Option<&AttachedPod>) -> bool {
    let Selectors { uid, gid, path, workload, pod_uid } = selectors;
    let known = caller.pod_uid.as_deref();
    let checks = [
        uid.map(|uid| uid == caller.uid),
        gid.map(|gid| gid == caller.gid),
        path.as_ref().map(|path| Some(path) == caller.path.as_ref()),
        workload.as_ref().map(|uid| pod.is_some_and(|pod| pod.uid == *uid)),
        pod_uid.as_ref().map(|uid| known == Some(&**uid)),
    ];
    checks.iter().any(Option::is_some) && checks.iter().flatten().all(|matched| *matched)
}

#[cfg(test)]
mod tests;
