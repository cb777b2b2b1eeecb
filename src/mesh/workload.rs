//! A workload: one pod, VM or host that has addresses and, if in the mesh, an identity.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, str::FromStr, sync::Arc};

use crate::{identity::SpiffeId, observe::conn::Names};

/// How to reach a workload.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
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
            None if text.is_empty() || text.contains('/') || text.starts_with('.') => Err(format!(
                "{text:?} is none of: a name under /run/netns, an absolute path, pid:N"
            )),
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

/// What records call a workload.
#[must_use]
pub fn names(namespace: &str, name: &str, labels: &BTreeMap<String, String>) -> Arc<Names> {
    let label = |key: &str| labels.get(key).map(|value| value.as_str().into());
    let workload: Arc<str> = name.into();
    let app = label("app").unwrap_or_else(|| workload.clone());
    Arc::new(Names { app, namespace: namespace.into(), version: label("version"), workload })
}

/// One workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workload {
    /// `namespace/name`: unique in the mesh.
    pub uid: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// Its UID in Kubernetes, which no other pod ever has.
    pub pod_uid: Option<Arc<str>>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// Its SPIFFE ID, `spiffe://<td>/ns/<namespace>/sa/<service account>`.
    pub id: SpiffeId,
    /// Its IP addresses.
    pub addresses: Vec<IpAddr>,
    /// The node that carries it.
    pub node: Option<Arc<str>>,
    /// Its labels, which policies select on.
    pub labels: BTreeMap<String, String>,
    /// What records call it; see [`names`].
    pub names: Arc<Names>,
    /// In the mesh or not.
    pub protocol: Protocol,
    /// Its network namespace; `None` is the process's own.
    pub netns: Option<NetnsRef>,
    /// How its applications' bytes come to us.
    pub app_hop: AppHop,
}
