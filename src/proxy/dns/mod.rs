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
mod resolver;
mod shared;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

pub use answer::Naming;
use pod::PodDns;
use resolv_conf::NameServers;
pub use resolver::Resolver;
pub use shared::CurrentView;
use shared::Shared;

use crate::{
    lifecycle::Tasks,
    net::PodName,
    observe::metrics::Metrics,
    sys::{datagrams, netns::Netns, sockets},
};

/// Where queries are captured to.
pub const DNS_PORT: u16 = 15053;

/// Answers the queries of pods; one for all of them.
pub struct DnsProxy {
    shared: Arc<Shared>,
    listen: Vec<SocketAddr>,
}

/// One pod whose queries are answered.
pub struct ServedPod {
    /// Where it asks.
    pub addresses: Vec<SocketAddr>,
    /// Asks in its place.
    pub resolver: Resolver,
}

/// How the DNS proxy is set up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DnsConfig {
    /// How names are understood.
    pub naming: Naming,
    /// The file that names the servers for all other names, such as `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Where queries are captured to, in each pod's namespace.
    pub listen: Vec<SocketAddr>,
    /// How many queries of usual cost each pod may make in a second.
    pub queries: u32,
}

impl Default for DnsConfig {
    fn default() -> Self {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        Self {
            naming: Naming::default(),
            resolv_conf: "/etc/resolv.conf".into(),
            listen: loopback.map(|ip| SocketAddr::new(ip, DNS_PORT)).into(),
            queries: pod::QUERIES,
        }
    }
}

impl DnsProxy {
    /// Reads which name servers there are, and follows them as long as `tasks` run.
    #[must_use]
    pub fn new(config: DnsConfig, mesh: CurrentView, metrics: Arc<Metrics>, tasks: &Tasks) -> Self {
        let servers = NameServers::of(config.resolv_conf, tasks);
        let DnsConfig { naming, listen, queries, .. } = config;
        let shared = Arc::new(Shared { mesh, metrics, naming, servers, queries });
        Self { shared, listen }
    }

    /// Answers the queries of a pod from the current runtime as long as `tasks` run: UDP and TCP, on
    /// the loopback addresses that its namespace has. What others are asked for it is answered after
    /// that too, within 5 s, as long as `answers` run.
    ///
    /// # Errors
    /// If the namespace cannot be entered or a port is taken; nothing runs then.
    pub fn serve(
        &self,
        netns: &Arc<Netns>,
        name: &Arc<PodName>,
        tasks: &Tasks,
        answers: &Tasks,
    ) -> io::Result<ServedPod> {
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
        let pod = PodDns::new(
            Arc::clone(&self.shared),
            Arc::clone(netns),
            Arc::clone(name),
            answers.clone(),
        );
        let addresses = opened.iter().map(|(address, ..)| *address).collect();
        for (_, udp, tcp) in opened {
            tasks.spawn(Arc::clone(&pod).datagrams(udp));
            tasks.spawn(Arc::clone(&pod).connections(tcp));
        }
        Ok(ServedPod { addresses, resolver: Resolver::new(pod) })
    }
}

fn is_no_address(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, Unsupported};
    // EAFNOSUPPORT has no kind of its own.
    matches!(error.kind(), AddrNotAvailable | Unsupported)
        || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}
