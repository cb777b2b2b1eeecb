//! Pods of an ambient node and their connections, as `istioctl` prints them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use serde::Serialize;

use crate::{
    net::Direction,
    observe::conn::{ConnMetadata, LiveConn},
};

/// A pod of this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodView {
    /// Its UID in Kubernetes.
    pub uid: String,
    /// What its connections call it ([`ConnMetadata::pod_uid`]).
    pub key: Arc<str>,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Whether its connections are carried; else it is being started, or cannot be.
    pub up: bool,
}

/// A pod in the JSON of `/config_dump`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PodState {
    state: &'static str,
    info: PodInfo,
    /// Of one that is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<Connections>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodInfo {
    name: String,
    namespace: String,
    service_account: String,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Connections {
    inbound: Vec<Inbound>,
    outbound: Vec<Outbound>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Inbound {
    src: SocketAddr,
    /// The service that was called, if the caller said so.
    original_dst: Option<String>,
    actual_dst: SocketAddr,
    protocol: &'static str,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outbound {
    src: SocketAddr,
    original_dst: SocketAddr,
    actual_dst: SocketAddr,
    protocol: &'static str,
}

impl Connections {
    fn add(&mut self, conn: &LiveConn, facts: &ConnMetadata) {
        let (src, protocol) = (conn.peer.0, facts.protocol.unwrap_or("TCP"));
        let Some(next) = facts.dst_addr else { return };
        match conn.direction {
            Direction::Inbound => self.inbound.push(Inbound {
                src,
                original_dst: facts.service.as_deref().map(ToOwned::to_owned),
                actual_dst: facts.flow_dst.unwrap_or(next),
                protocol,
            }),
            Direction::Outbound => self.outbound.push(Outbound {
                src,
                original_dst: facts.flow_dst.unwrap_or(next),
                actual_dst: next,
                protocol,
            }),
        }
    }
}

/// Each pod with those of the connections that are its own, by the pod's UID.
pub(crate) fn pods(pods: &[PodView], live: &[Arc<LiveConn>]) -> BTreeMap<String, PodState> {
    let mut of_pods: BTreeMap<Arc<str>, Connections> = BTreeMap::new();
    for conn in live {
        conn.metadata(|facts| {
            if let Some(pod) = facts.pod_uid() {
                of_pods.entry(Arc::clone(pod)).or_default().add(conn, facts);
            }
        });
    }
    let state = |pod: &PodView| PodState {
        state: if pod.up { "Up" } else { "Pending" },
        info: PodInfo {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            service_account: pod.service_account.clone(),
        },
        connections: pod.up.then(|| of_pods.remove(&pod.key).unwrap_or_default()),
    };
    let mut state = state;
    pods.iter().map(|pod| (pod.uid.clone(), state(pod))).collect()
}
