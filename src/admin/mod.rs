//! What operators see, over plain HTTP/1.1: admin on loopback, metrics and readiness on all
//! addresses. Bodies are built on the control thread; nothing here delays a connection.

mod changes;
mod listener;
mod metrics;
mod pages;
mod state;
mod views;

use std::{io, sync::Arc};

pub use self::state::State;
use self::{
    listener::EndpointListener,
    pages::{Endpoint, Pages},
};
use crate::{
    config::{AdminAddress, Settings},
    http::{Limits, Readers, Server},
    lifecycle::Tasks,
};

/// Binds the three endpoints and serves them: `accepting` accepts, what is accepted goes on in
/// `tasks`.
///
/// # Errors
/// An address that cannot be bound.
pub async fn serve(
    state: &Arc<State>,
    settings: &Settings,
    accepting: &Tasks,
    tasks: &Tasks,
) -> io::Result<()> {
    let listeners = &state.node.listeners;
    let tcp = AdminAddress::Tcp;
    for (addr, endpoint, name) in [
        (settings.admin.clone(), Endpoint::Admin, "admin"),
        (tcp(settings.metrics), Endpoint::Metrics, "metrics"),
        (tcp(settings.readiness), Endpoint::Readiness, "readiness"),
    ] {
        let listener = EndpointListener::open(&addr, listeners)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("{name} endpoint on {addr}: {e}")))?;
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
