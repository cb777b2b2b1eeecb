//! A workload: one pod, VM or host that has addresses and, if in the mesh, an identity.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, str::FromStr, sync::Arc};

use crate::{identity::SpiffeId, observe::conn::Names};

/// How to reach a workload.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// In the mesh: HBONE to port 15008.
    #[default]
    Hbone,
    /// Not in the mesh: plain TCP.
    Tcp,
}

/// How bytes travel between an application and us, on its own host.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AppHop {
    /// TCP, as if it went to another host.
    #[default]
    Tcp,
    /// From queue to queue where the kernel can ([`crate::sys::sockmap`]).
    Sockmap,
}

/// Where a pod's network namespace is found.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum NetnsRef {
    /// A name under `/run/netns`.
    Name(String),
    /// A path such as `/proc/123/ns/net`.
    Path(PathBuf),
    /// The namespace of a process.
    Pid(u32),
}

impl FromStr for NetnsRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("pid:") {
            Some(pid) => pid
                .parse()
                .map(Self::Pid)
                .map_err(|_| format!("{text:?}: after pid: comes a process id, such as pid:4711")),
            None if text.starts_with('/') => Ok(Self::Path(text.into())),
            None if text.is_empty() || text.contains('/') || text.starts_with('.') => {
                Err(format!("{text:?}: must be a name under /run/netns, an absolute path or pid:N"))
            }
            None => Ok(Self::Name(text.into())),
        }
    }
}

impl NetnsRef {
    /// The file that `setns` opens.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Name(name) => PathBuf::from("/run/netns").join(name),
            Self::Path(path) => path.clone(),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        }
    }
}

impl NetnsRef {
    /// The process by which it is named, if it is.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Pid(pid) => Some(*pid),
            Self::Path(path) => {
                let path = path.to_str()?.strip_prefix("/proc/")?;
                path.strip_suffix("/ns/net")?.parse().ok()
            }
            Self::Name(_) => None,
        }
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

/// Labels of a pod, by key.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of one.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let at = self.0.binary_search_by(|(there, _)| (**there).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let texts = labels.into_iter().map(|(key, value)| (key.into(), value.into()));
        let sorted: BTreeMap<Arc<str>, Arc<str>> = texts.collect();
        Self(sorted.into_iter().collect())
    }
}

/// What the pods of one deployment have in common; the store keeps one copy for all of them.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Template {
    /// The network in which their addresses mean them; empty for the only one.
    pub network: Arc<str>,
    /// Their namespace.
    pub namespace: Arc<str>,
    /// Their SPIFFE ID, `spiffe://<td>/ns/<namespace>/sa/<service account>`.
    pub id: SpiffeId,
    /// Their labels.
    pub labels: Labels,
    /// In the mesh or not.
    pub protocol: Protocol,
    /// The policies that select them, `namespace/name` each, in the order in which they are
    /// asked.
    pub policies: Arc<[Arc<str>]>,
}

/// What this node alone knows of a pod. It stands beside the mesh's own facts until pods have
/// a room of their own.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LocalPod {
    /// Its UID in Kubernetes, which no other pod ever has.
    pub pod_uid: Option<Arc<str>>,
    /// Its network namespace; `None` is the process's own.
    pub netns: Option<NetnsRef>,
    /// How its applications' bytes come to us.
    pub app_hop: AppHop,
}

/// One workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workload {
    /// `namespace/name`: unique in the mesh.
    pub uid: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// Its IP addresses.
    pub addresses: Box<[IpAddr]>,
    /// The node that carries it.
    pub node: Option<Arc<str>>,
    /// What it has in common with others.
    pub template: Arc<Template>,
    /// What only its own node knows.
    pub local: Option<Arc<LocalPod>>,
}

impl Workload {
    /// The network in which its addresses mean it.
    #[must_use]
    pub fn network(&self) -> &Arc<str> {
        &self.template.network
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Arc<str> {
        &self.template.namespace
    }

    /// Its service account, which is part of its SPIFFE ID.
    #[must_use]
    pub fn service_account(&self) -> &str {
        self.id().kubernetes().map_or("", |(_, account)| account)
    }

    /// Its SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.template.id
    }

    /// Its labels.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.template.labels
    }

    /// In the mesh or not.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.template.protocol
    }

    /// The policies that select it.
    #[must_use]
    pub fn policies(&self) -> &Arc<[Arc<str>]> {
        &self.template.policies
    }

    /// Its UID in Kubernetes, if this node knows it.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&Arc<str>> {
        self.local.as_ref()?.pod_uid.as_ref()
    }

    /// Its network namespace; `None` is the process's own.
    #[must_use]
    pub fn netns(&self) -> Option<&NetnsRef> {
        self.local.as_ref()?.netns.as_ref()
    }

    /// How its applications' bytes come to us.
    #[must_use]
    pub fn app_hop(&self) -> AppHop {
        self.local.as_ref().map_or(AppHop::Tcp, |local| local.app_hop)
    }

    /// What records call it.
    #[must_use]
    pub fn names(&self) -> Arc<Names> {
        let label = |key| self.labels().get(key).cloned();
        let own = Names::of(Arc::clone(&self.name), Arc::clone(self.namespace()));
        let app = label("app").unwrap_or_else(|| Arc::clone(&self.name));
        Arc::new(Names { app, version: label("version"), ..own })
    }
}
