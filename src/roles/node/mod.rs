//! The node proxy, told as the story of one connection. Read this first.
//!
//! 1. **Captured.** An application in a pod connects to a service. Rules in the pod's network
//!    namespace ([`crate::pods::capture`]) redirect the SYN to port 15001 there, where a
//!    listener of ours accepts it ([`crate::proxy::listener`]); [`start`] opened it, and says who
//!    serves what it accepts.
//! 2. **Routed.** [`arrival`] asks the kernel where the application meant to go; [`route::decide`]
//!    looks at one immutable view of the mesh and says: HBONE to the destination's pod, plain TCP,
//!    or refused. It is pure: no clock, no socket, no lock.
//! 3. **Placed.** The connection takes a ticket, which keeps connections to one application in
//!    order ([`crate::hbone::order`]). [`crate::proxy::listener`] gives it to a worker, which keeps it
//!    to the end; [`outbound`] enters it into the live table ([`crate::observe::conn::OpenConn`]).
//! 4. **Carried.** [`crate::proxy::egress::hbone`] has the pod's [`crate::hbone::Pool`] open a
//!    CONNECT stream on a tunnel to the peer, made with the pod's own SVID and only to the identity
//!    expected there. Its socket has the mark that the capture rules leave alone.
//! 5. **Received.** On the far node the tunnel arrives on port 15008 in the destination's
//!    namespace; [`start`] hands it, as a task of the pod's `tunnels`, to
//!    [`crate::proxy::ingress::hbone`] with a [`inbound::PodDestination`], and each of its streams is
//!    one of the pod's `conns`. The caller shows its SVID first; [`inbound`] checks that the
//!    authority is this pod, or a service that it backs, asks
//!    [`crate::policy::admission::decide`], and only then dials the application, from the caller's
//!    address.
//! 6. **Relayed.** [`crate::relay::run`] moves bytes until both directions have ended.
//! 7. **Closed.** Dropping the record counts the connection and writes its access-log line (at most
//!    so many for one failing peer), under one [`crate::net::CloseReason`].
//!
//! Where SOCKS5 is on, an application may ask for a connection at port 15080 of the loopback address
//! instead ([`socks`]): from step 2 on it is like one that was captured.
//!
//! Plaintext that arrives at a pod lands on 15006 ([`plaintext`]): refused while mTLS is strict.
//! Tunnels at applications' own ports land there too, where nodes make them ([`original_port`]).
//! When policies change, [`recheck()`] closes what is no longer allowed; when bundles, CRLs or bans
//! change, [`revalidate()`] closes the tunnels whose peers are no longer trusted.

mod app_tunnel;
mod arrival;
mod attached;
mod config;
mod destination;
mod inbound;
mod known;
mod on_demand;
mod original_port;
mod outbound;
mod outgoing;
mod owned;
mod plaintext;
mod pod;
mod port;
mod reach;
mod recheck;
mod recognition;
mod record;
mod revalidate;
pub mod route;
mod socks;
mod start;
#[cfg(test)]
mod tests;
mod waypoint;

use std::{os::fd::BorrowedFd, sync::Arc};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

pub use attached::{Attached, Entered};
pub use config::{NodeConfig, OriginalSource};
pub use pod::Pod;
pub use recheck::{Lacking, recheck};
pub use recognition::Recognition;
pub use revalidate::revalidate;

use crate::{
    credentials::Svids,
    hbone::{TunnelConfig, TunnelRegistry},
    identity::{LocalIdentity, SpiffeId, X509Svid},
    lifecycle::Listeners,
    mesh::{View, Workload, source::xds::Xds},
    net::{CloseReason, Direction, Outcome},
    observe::Telemetry,
    proxy::{
        dns::DnsProxy,
        egress::{Ejections, OutboundTrafficPolicy},
    },
    relay,
    sys::{descriptors, sockmap::Sockmap},
};

/// Where applications' connections are captured to.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where plaintext towards a pod is captured to.
pub const INBOUND_PLAINTEXT_PORT: u16 = 15006;
/// Where applications ask for connections by SOCKS5, on the loopback address, where that is on.
pub const SOCKS_PORT: u16 = 15080;
/// Ports of ours inside a pod: never a destination.
pub const OWN_PORTS: [u16; 3] = [OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, crate::hbone::HBONE_PORT];
/// Ports of ours inside a pod where there is SOCKS5.
const WITH_SOCKS: [u16; 4] = [OWN_PORTS[0], OWN_PORTS[1], OWN_PORTS[2], SOCKS_PORT];

/// What every pod of the node shares.
pub struct Node {
    /// The mesh as of the last accepted configuration.
    pub mesh: Arc<ArcSwap<View>>,
    /// Own SVIDs.
    pub svids: Arc<Svids>,
    /// The open tunnels, and who is at the other end of each.
    pub tunnels: Arc<TunnelRegistry>,
    /// Records and metrics.
    pub telemetry: Telemetry,
    /// Limits and deadlines of tunnels.
    pub tunnel: TunnelConfig,
    /// How long a relay may be silent.
    pub limits: relay::Limits,
    /// The sockmap redirect to applications, where it is on.
    pub sockmap: Option<Arc<Sockmap>>,
    /// One runtime per data worker.
    pub workers: Vec<Handle>,
    /// Answers the DNS queries of pods, if they are captured.
    pub dns: Option<Arc<DnsProxy>>,
    /// How it treats its pods.
    pub config: NodeConfig,
    /// Who is asked for what of the mesh is not known, where it is asked for one by one.
    pub on_demand: Option<Xds>,
    /// Whether pods may call who is not in the mesh.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// How the endpoints do that pods call.
    pub endpoints: Ejections,
    /// Its pods, those that drain too.
    pub pods: Arc<Attached>,
    /// The listening sockets, from the process before this one and for the one after it.
    pub listeners: Arc<Listeners>,
}

impl Node {
    /// A node of this mesh, without pods and workers, and without all that a node need not have:
    /// DNS, the sockmap, a mesh that is asked for one by one.
    #[must_use]
    pub fn new(mesh: View, svids: Arc<Svids>, telemetry: Telemetry) -> Self {
        let tunnels = TunnelRegistry::new(svids.watch_bundles(), svids.watch_banned());
        Self {
            mesh: Arc::new(ArcSwap::from_pointee(mesh)),
            svids,
            tunnels: Arc::new(tunnels),
            telemetry,
            tunnel: TunnelConfig::default(),
            limits: relay::Limits::default(),
            sockmap: None,
            workers: Vec::new(),
            dns: None,
            config: NodeConfig::default(),
            on_demand: None,
            outbound_traffic_policy: OutboundTrafficPolicy::default(),
            endpoints: Ejections::default(),
            pods: Arc::default(),
            listeners: Arc::default(),
        }
    }

    /// Ports of ours inside its pods.
    fn own_ports(&self) -> &'static [u16] {
        if self.config.socks5 { &WITH_SOCKS } else { &OWN_PORTS }
    }

    /// Whether a pod that has `has` connections of a kind must do without the descriptor of one
    /// more: the last of all are for pods that have fewer.
    fn is_more_than_its_part(&self, fd: BorrowedFd<'_>, has: usize) -> bool {
        let others = self.pods.len().saturating_sub(1);
        descriptors::is_more_than_its_part(fd, has, others)
    }

    /// Who a pod is now, which is this workload, and whom it trusts.
    async fn local_identity(
        &self,
        pod: &Pod,
        workload: &Workload,
    ) -> Result<LocalIdentity, Outcome> {
        let svid = self.own_svid(&pod.name.uid, workload.id()).await;
        let svid = svid.map_err(|(reason, error)| (reason, Some(error)))?;
        Ok(LocalIdentity { svid, bundles: self.svids.bundles() })
    }

    /// Counts a tunnel that was not established.
    fn handshake_failed(&self, direction: Direction, reason: CloseReason) {
        self.telemetry.metrics.tunnels.handshake_failed(direction, reason);
    }

    /// The SVID of a pod, waiting no longer than a handshake may take.
    async fn own_svid(
        &self,
        pod: &str,
        id: &SpiffeId,
    ) -> Result<Arc<X509Svid>, (CloseReason, String)> {
        let (reason, why) = match tokio::time::timeout(self.tunnel.tls, self.svids.ready(pod)).await
        {
            Ok(Ok(svid)) if svid.id == *id => return Ok(svid),
            Ok(Ok(_)) => (CloseReason::NoIdentity, ": the identity of the pod changed".to_owned()),
            Ok(Err(error)) if error.is_ban() => (CloseReason::IdentityBanned, format!(": {error}")),
            Ok(Err(error)) => (CloseReason::NoIdentity, format!(": {error}")),
            Err(_) => (CloseReason::NoIdentity, format!(" within {:?}", self.tunnel.tls)),
        };
        Err((reason, format!("no SVID for {id}{why}")))
    }
}
