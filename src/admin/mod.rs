//! What operators see, over plain HTTP/1.1: admin on loopback, metrics and readiness on all
//! addresses. Bodies are built on the control thread; nothing here delays a connection.

mod changes;
mod form;
mod listener;
mod metrics;
mod pages;
mod profile;
mod start_tasks;
mod state;
mod views;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use self::{
    listener::EndpointListener,
    pages::{Endpoint, Pages},
};
pub use self::{
    start_tasks::StartTask,
    state::State,
    views::{PodView, settings},
};
use crate::{
    config::{AdminAddress, Settings, environment::Environment},
    http::{Limits, Readers, Server},
    lifecycle::Tasks,
    net::cannot_listen,
};

/// Where the endpoints listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Addresses {
    /// Admin: the first address must be bindable; the others are skipped if this machine lacks
    /// them.
    pub admin: Vec<AdminAddress>,
    /// Metrics.
    pub metrics: SocketAddr,
    /// Readiness.
    pub readiness: SocketAddr,
    /// What chooses each of the three.
    keys: [&'static str; 3],
}

impl From<&Settings> for Addresses {
    fn from(settings: &Settings) -> Self {
        let Settings { admin, metrics, readiness, .. } = settings;
        let keys = ["`admin`", "`metrics`", "`readiness`"];
        Self { admin: vec![admin.clone()], metrics: *metrics, readiness: *readiness, keys }
    }
}

impl From<&Environment> for Addresses {
    fn from(environment: &Environment) -> Self {
        let Environment { admin_port, stats_port, readiness_port, ipv6, .. } = environment;
        let mut admin: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
        let mut all: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        if *ipv6 {
            admin.push(Ipv6Addr::LOCALHOST.into());
            all = Ipv6Addr::UNSPECIFIED.into();
        }
        let at = |ip: IpAddr| AdminAddress::Tcp((ip, *admin_port).into());
        Self {
            admin: admin.into_iter().map(at).collect(),
            metrics: (all, *stats_port).into(),
            readiness: (all, *readiness_port).into(),
            keys: ["`proxyAdminPort` in PROXY_CONFIG", "`statsPort` in PROXY_CONFIG", ""],
        }
    }
}

/// Binds the endpoints and serves them: `accepting` accepts, what is accepted goes on in `tasks`.
///
/// # Errors
/// An address that cannot be bound.
pub async fn serve(
    state: &Arc<State>,
    addresses: &Addresses,
    accepting: &Tasks,
    tasks: &Tasks,
) -> io::Result<()> {
    let listeners = &state.node.listeners;
    let Addresses { admin, metrics, readiness, keys } = addresses;
    let admin = admin.iter().map(|addr| (addr.clone(), Endpoint::Admin, "admin", keys[0]));
    let others = [
        (AdminAddress::Tcp(*metrics), Endpoint::Metrics, "metrics", keys[1]),
        (AdminAddress::Tcp(*readiness), Endpoint::Readiness, "readiness", keys[2]),
    ];
    for (n, (addr, endpoint, name, key)) in admin.chain(others).enumerate() {
        let listener = match EndpointListener::open(&addr, listeners).await {
            Ok(listener) => listener,
            Err(error) if n > 0 && endpoint == Endpoint::Admin => {
                tracing::info!(%addr, %error, "the admin endpoint does not listen on this address");
                continue;
            }
            Err(e) => {
                let why = cannot_listen(&addr, key, &e);
                return Err(io::Error::new(e.kind(), format!("{name} endpoint: {why}")));
            }
        };
        let readers = match endpoint {
            Endpoint::Admin => Readers::ByOwnName,
            Endpoint::Metrics | Endpoint::Readiness => Readers::Anyone,
        };
        let server = Server { name, limits: Limits::OPERATORS, readers, names: Vec::new() };
        let pages = Arc::new(Pages { state: Arc::clone(state), endpoint });
        let (listeners, conns) = (Arc::clone(listeners), tasks.child());
        accepting.spawn(async move {
            listeners.accepting().await;
            server.run(listener, pages, conns).await;
        });
    }
    Ok(())
}
