//! What is said over one connection: each message becomes one event, or is refused, and has one
//! acknowledgement. Nothing is ever said without having been asked, but for the first words.

use std::{os::fd::OwnedFd, sync::Arc};

use prost::Message as _;

use crate::{
    mesh::{AppHop, NonTcp},
    pods::source::{Member, PodEvent, PodFacts, PodNetns, uid_of},
    rpc::zds::{
        Ack, AddWorkload, Version, WorkloadInfo, WorkloadRequest, WorkloadResponse, ZdsHello,
        workload_request::Payload, workload_response,
    },
    sys::netns::Netns,
};

/// The longest message in both directions, bytes: istio-cni has room for no more.
pub(super) const LONGEST: usize = 1024;

/// So much of an error is told, bytes: it fits into a message with what is around it.
const LONGEST_ERROR: usize = 900;

/// The longest name of anything in Kubernetes.
const LONGEST_NAME: usize = 253;

/// What istio-cni has said over one connection.
#[derive(Debug, Default)]
pub(super) struct Session {
    has_snapshot: bool,
    non_tcp: NonTcp,
}

/// Why a message leads to no event. It is acknowledged with this.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It is none of the protocol.
    #[error("the message cannot be read: {0}")]
    Unreadable(#[from] prost::DecodeError),
    /// It is of a kind that did not exist when this was written.
    #[error("the message is not an add, keep, del or snapshot_sent")]
    Unknown,
    /// Only a snapshot keeps pods.
    #[error("keep after the snapshot")]
    KeptLate,
    /// A connection has one.
    #[error("a second snapshot_sent")]
    SecondSnapshot,
    /// Only an add has one.
    #[error("a file descriptor came with a message that is not an add")]
    Descriptor,
    /// Nothing can be done for such a pod.
    #[error("add of pod {0} without the descriptor of its network namespace")]
    NoDescriptor(String),
    /// Nobody knows what such a pod is.
    #[error("add of pod {0} without workload_info")]
    NoInfo(String),
    /// There can be no such pod.
    #[error("{field} {value:?} is not a valid Kubernetes name")]
    Name {
        /// Of the message.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// The descriptor of a pod is of no use.
    #[error("add of pod {0}: {1}")]
    Netns(String, std::io::Error),
}

impl Fault {
    /// Whether the two ends do not mean the same by what they say, so that the connection ends.
    pub(super) fn ends_session(&self) -> bool {
        match self {
            Self::Unreadable(_)
            | Self::Unknown
            | Self::KeptLate
            | Self::SecondSnapshot
            | Self::Descriptor
            | Self::NoDescriptor(_)
            | Self::NoInfo(_) => true,
            Self::Name { .. } | Self::Netns(..) => false,
        }
    }
}

impl Session {
    /// A session that has begun; `non_tcp` is what happens to the pods' non-TCP traffic.
    pub(super) fn new(non_tcp: NonTcp) -> Self {
        Self { has_snapshot: false, non_tcp }
    }

    /// Whether all pods have been named.
    pub(super) fn has_snapshot(&self) -> bool {
        self.has_snapshot
    }

    /// Takes one message and the descriptor that came with it.
    ///
    /// # Errors
    /// [`Fault`]: nothing comes of it.
    pub(super) fn read(
        &mut self,
        message: &[u8],
        netns: Option<OwnedFd>,
    ) -> Result<PodEvent, Fault> {
        let payload = WorkloadRequest::decode(message)?.payload.ok_or(Fault::Unknown)?;
        if let Payload::Add(add) = payload {
            let facts = announced(add, netns)?;
            let facts = PodFacts { non_tcp: self.non_tcp, ..facts };
            return Ok(PodEvent::Upsert(Arc::new(facts)));
        }
        if netns.is_some() {
            return Err(Fault::Descriptor);
        }
        match payload {
            Payload::Keep(_) if self.has_snapshot => Err(Fault::KeptLate),
            Payload::Keep(keep) => Ok(PodEvent::Kept(uid_of(named("uid", &keep.uid)?))),
            Payload::Del(del) => Ok(PodEvent::Removed(uid_of(named("uid", &del.uid)?))),
            Payload::SnapshotSent(_) if self.has_snapshot => Err(Fault::SecondSnapshot),
            Payload::SnapshotSent(_) => {
                self.has_snapshot = true;
                Ok(PodEvent::SnapshotEnds)
            }
            Payload::Add(_) => Err(Fault::Unknown), // answered above
        }
    }
}

/// The pod of an add.
fn announced(add: AddWorkload, netns: Option<OwnedFd>) -> Result<PodFacts, Fault> {
    let AddWorkload { uid, workload_info } = add;
    let netns = netns.ok_or_else(|| Fault::NoDescriptor(uid.clone()))?;
    let info = workload_info.ok_or_else(|| Fault::NoInfo(uid.clone()))?;
    let WorkloadInfo { name, namespace, service_account } = info;
    let pod_uid = named("uid", &uid)?;
    let facts = |netns| -> Result<PodFacts, Fault> {
        Ok(PodFacts {
            uid: uid_of(pod_uid),
            namespace: named("namespace", &namespace)?.into(),
            name: named("name", &name)?.into(),
            pod_uid: Some(pod_uid.into()),
            member: Member::Sought {
                service_account: named("service_account", &service_account)?.into(),
            },
            netns: PodNetns::Open(Arc::new(netns)),
            app_hop: AppHop::Tcp,
            non_tcp: NonTcp::Pass,
        })
    };
    facts(Netns::given(netns).map_err(|error| Fault::Netns(uid.clone(), error))?)
}

/// What Kubernetes could have called something: it is logged, and part of keys and SPIFFE IDs.
fn named<'a>(field: &'static str, value: &'a str) -> Result<&'a str, Fault> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    match (1..=LONGEST_NAME).contains(&value.len()) && value.bytes().all(legal) {
        true => Ok(value),
        false => Err(Fault::Name { field, value: value.to_owned() }),
    }
}

/// As much of it as is told.
fn beginning(why: &str) -> &str {
    let ends = why.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.take_while(|end| *end <= LONGEST_ERROR).last();
    &why[..end.unwrap_or_default()]
}

/// The first words of a connection.
pub(super) fn hello() -> Vec<u8> {
    ZdsHello { version: Version::V1.into() }.encode_to_vec()
}

/// The answer to one message: done, or why not.
pub(super) fn acknowledgement(done: Result<(), &str>) -> Vec<u8> {
    let error = done.err().map(|why| match why.is_empty() {
        true => "no reason given", // empty says that all is well
        false => beginning(why),
    });
    let ack = Ack { error: error.unwrap_or_default().to_owned() };
    let payload = Some(workload_response::Payload::Ack(ack));
    WorkloadResponse { payload }.encode_to_vec()
}

#[cfg(test)]
mod tests;
