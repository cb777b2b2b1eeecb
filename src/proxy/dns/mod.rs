//! The DNS proxy: what applications ask is captured to port 15053 on the loopback addresses of
//! their own namespace. Names of the mesh are answered at once, from the view of this moment
//! ([`answer`]); all others are asked of the name servers in resolv.conf from the pod's namespace
//! and passed on as they are answered ([`forward`]).
//!
//! A pod's queries cost that pod: each has bounds of its own on how many it asks in a second and
//! how many of them, and of its connections, are open at once ([`pod`]). An answer that came by
//! itself is never answered, so that two proxies cannot keep each other busy.

mod allowance;
mod answer;
mod forward;
pub mod message;
mod name;
mod pod;
mod resolv_conf;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

pub use answer::Naming;
use pod::PodDns;
use resolv_conf::NameServers;

use crate::{
    lifecycle::Tasks,
    mesh::View,
    observe::metrics::Metrics,
    sys::{datagrams, netns::Netns, sockets},
};

/// Where queries are captured to.
pub const DNS_PORT: u16 = 15053;

/// The mesh at this moment.
pub type CurrentView = Arc<dyn Fn() -> Arc<View> + Send + Sync>;

/// What all pods' queries have in common.
pub struct DnsProxy {
    mesh: CurrentView,
    metrics: Arc<Metrics>,
    naming: Naming,
    servers: NameServers,
    listen: Vec<SocketAddr>,
}

/// How the DNS proxy is set up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DnsConfig {
    /// How names are understood.
    pub naming: Naming,
    /// Whom other names are asked of: a file such as `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Where queries are captured to, in each pod's namespace.
    pub listen: Vec<SocketAddr>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        Self {
            naming: Naming::default(),
            resolv_conf: "/etc/resolv.conf".into(),
            listen: loopback.map(|ip| SocketAddr::new(ip, DNS_PORT)).into(),
        }
    }
}

impl DnsProxy {
    /// Reads which name servers there are, and follows them as long as `tasks` run.
    #[must_use]
    pub fn new(
        config: DnsConfig,
        mesh: CurrentView,
        metrics: Arc<Metrics>,
        tasks: &Tasks,
    ) -> Arc<Self> {
        let servers = NameServers::of(config.resolv_conf, tasks);
        let DnsConfig { naming, listen, .. } = config;
        Arc::new(Self { mesh, metrics, naming, servers, listen })
    }

    /// Answers the queries of a pod, whose workload is `uid`, from the current runtime as long as
    /// `tasks` run: UDP and TCP, on the loopback addresses that its namespace has. Returns where.
    ///
    /// # Errors
    /// If the namespace cannot be entered or a port is taken; nothing runs then.
    pub fn serve(
        self: &Arc<Self>,
        netns: &Arc<Netns>,
        uid: &Arc<str>,
        tasks: &Tasks,
    ) -> io::Result<Vec<SocketAddr>> {
        let mut opened = Vec::new();
        for &address in &self.listen {
            let both = datagrams::bound(netns, address).and_then(|udp| {
                let same = udp.local_addr()?;
                let tcp = tokio::net::TcpListener::from_std(sockets::listen(netns, same)?)?;
                Ok((same, udp, tcp))
            });
            match both {
                Ok(both) => opened.push(both),
                // A namespace may have no IPv6, not even on its loopback interface.
                Err(error) if address.is_ipv6() && is_no_address(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let pod = PodDns::new(Arc::clone(self), Arc::clone(netns), Arc::clone(uid), tasks.clone());
        let addresses = opened.iter().map(|(address, ..)| *address).collect();
        for (_, udp, tcp) in opened {
            tasks.spawn(Arc::clone(&pod).datagrams(udp));
            tasks.spawn(Arc::clone(&pod).connections(tcp));
        }
        Ok(addresses)
    }
}

fn is_no_address(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, Unsupported};
    // EAFNOSUPPORT has no kind of its own.
    matches!(error.kind(), AddrNotAvailable | Unsupported)
        || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}
