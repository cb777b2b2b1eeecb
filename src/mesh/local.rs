//! What only a pod's own node knows of it.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

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

/// What happens to a pod's non-TCP traffic, which is not tunnelled: pass, count or drop. What IP
/// itself needs, DNS and what stays within the pod are never touched. Ordered from lax to strict.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum NonTcp {
    /// It passes by, in plaintext.
    #[default]
    Pass,
    /// It passes by and is counted.
    Count,
    /// It is dropped and counted.
    Drop,
}

impl NonTcp {
    /// The words for them.
    pub const WORDS: [(&'static str, Self); 3] =
        [("pass", Self::Pass), ("count", Self::Count), ("drop", Self::Drop)];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let [pass, count, drop] = Self::WORDS;
        match self {
            Self::Pass => pass.0,
            Self::Count => count.0,
            Self::Drop => drop.0,
        }
    }
}

/// None of the words of [`NonTcp`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be pass, count or drop")]
pub struct UnknownVerdict;

impl FromStr for NonTcp {
    type Err = UnknownVerdict;

    fn from_str(text: &str) -> Result<Self, UnknownVerdict> {
        let known = Self::WORDS.into_iter().find(|(word, _)| *word == text);
        known.map(|(_, verdict)| verdict).ok_or(UnknownVerdict)
    }
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
            Some(pid) => pid.parse().map(Self::Pid).map_err(|_| {
                format!("{text:?}: pid: must be followed by a process ID, such as pid:4711")
            }),
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
    /// What happens to its non-TCP traffic: pass, count or drop.
    pub non_tcp: NonTcp,
}
