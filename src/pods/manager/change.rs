//! Single pods: the attached ones, the changes that are under way, and their results.

use std::{collections::HashMap, io, sync::Arc, time::Instant};

use futures_util::future::BoxFuture;

use crate::{
    credentials::AttachedAs,
    identity::SpiffeId,
    mesh::NetnsRef,
    pods::{capture, source::PodFacts},
    roles::node::Pod,
    sys::netns::Netns,
};

/// One pod, with what it was started from.
pub(crate) struct Carried {
    pub(crate) pod: Arc<Pod>,
    pub(crate) facts: Arc<PodFacts>,
    /// The capture rules that adit has applied.
    pub(crate) captured: Option<capture::Options>,
    /// Whether they are those of the process before this one, and were not looked at yet.
    pub(crate) inherited: bool,
    /// Since when nothing stands under the name of its namespace.
    pub(crate) missing: Option<Instant>,
    /// Whether the last look at its namespace failed.
    pub(crate) unknown: bool,
    /// What the last look at its namespace said: it is another pod now.
    pub(crate) moved: bool,
    /// The identity that it last acted under, if the mesh determines that.
    pub(crate) was: Option<SpiffeId>,
}

/// What happens to the capture rules of a pod that is stopped.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum After {
    /// Traffic that they redirect is refused until another pod, or process, listens there.
    Keep,
    /// They stay, without the exception for probes: no pod is expected in that namespace.
    Shut,
    Remove,
}

/// Whose capture rules stay when the process ends.
#[derive(Clone)]
pub enum Leave {
    /// Those of every pod.
    All,
    /// None of them.
    None,
    /// Those of the pods and namespaces that are named: another process sees to them.
    Of(Vec<String>),
}

impl Leave {
    /// What a namespace is called among them.
    pub(crate) fn name_of((device, inode): (u64, u64)) -> String {
        format!("netns {device}:{inode}")
    }

    pub(crate) fn after(&self, uid: &str, netns: (u64, u64)) -> After {
        let stays = match self {
            Self::All => true,
            Self::None => false,
            Self::Of(names) => {
                names.iter().any(|name| *name == *uid || *name == Self::name_of(netns))
            }
        };
        if stays { After::Keep } else { After::Remove }
    }
}

/// What decides whether rules stay, and those that have.
#[derive(Default)]
pub(crate) struct KeptRules {
    /// Pods that are to run and to be captured, also where they could not be started yet.
    pub(crate) wanted: Vec<Arc<PodFacts>>,
    /// Whose rules stay, once the process is to end.
    pub(crate) leave: Option<Leave>,
    /// Namespaces with rules that no pod of this process has.
    pub(crate) namespaces: HashMap<(u64, u64), Arc<Netns>>,
}

/// What its platform knows a pod by.
pub(crate) fn carried_as(facts: &PodFacts) -> AttachedAs {
    AttachedAs {
        uid: Arc::clone(&facts.uid),
        namespace: Arc::clone(&facts.namespace),
        name: Arc::clone(&facts.name),
        pod_uid: facts.pod_uid.clone(),
        pid: facts.netns.named().and_then(NetnsRef::pid),
    }
}

/// A pod that could not be attached, or only in part.
pub struct Failed {
    /// Which, and why.
    pub why: String,
    /// Its namespace is not there: it has no traffic that could be captured.
    pub absent: bool,
    /// The namespace that was probably meant by the name of the one that is not there.
    pub meant: Option<String>,
}

impl Failed {
    pub(crate) fn new(facts: &PodFacts, error: &anyhow::Error) -> Self {
        let kind = error.downcast_ref().map(io::Error::kind);
        let why = format!("pod {facts}: {error:#}");
        Self { why, absent: kind == Some(io::ErrorKind::NotFound), meant: None }
    }

    /// Why, with what was probably meant.
    #[must_use]
    pub fn with_meant(&self) -> String {
        match &self.meant {
            Some(meant) => format!("{}; did you mean {meant}?", self.why),
            None => self.why.clone(),
        }
    }
}

/// A change of one pod that is under way.
pub(crate) struct Change {
    pub(crate) facts: Arc<PodFacts>,
    pub(crate) options: Option<capture::Options>,
    /// The namespace that it enters, once that is open.
    pub(crate) netns: Option<(u64, u64)>,
    /// Whether it applies the rules of a pod again that is attached already, and attaches none.
    pub(crate) renews: bool,
}

/// The result of a change of one pod.
pub struct Changed {
    /// The facts of this pod.
    pub facts: Arc<PodFacts>,
    /// Why it is not attached, or only in part.
    pub failed: Option<Failed>,
}

/// What there is to do until the pods are those that are wanted.
pub struct Changes {
    /// One for each pod, side by side.
    pub work: Vec<BoxFuture<'static, Changed>>,
    /// Whether changes that are under way already have to be followed by others.
    pub more: bool,
}
