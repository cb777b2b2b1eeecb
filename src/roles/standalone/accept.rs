//! The listener of a service: takes connections on every worker until it is told to stop, and
//! hands each to who serves its kind.

use std::{
    io,
    net::SocketAddr,
    os::fd::BorrowedFd,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use futures_util::FutureExt as _;
use tokio::{net::TcpStream, runtime::Handle, sync::OwnedSemaphorePermit};

use super::{Role, Service, connection, hbone, health, outcome};
use crate::{
    hbone::{Pool, order::Tie},
    net::{Accepting, Listening},
    proxy::listener::{AcceptBalancer, Arrival, Port, accept_loop},
};

impl Service {
    /// Takes connections on every worker.
    ///
    /// # Errors
    /// No descriptors.
    pub async fn start(
        self: &Arc<Self>,
        listening: &Listening,
        workers: &[Handle],
    ) -> io::Result<()> {
        for (worker, balancer) in workers.iter().zip(AcceptBalancer::all(workers.len())) {
            let _context = worker.enter();
            let listener = listening.accepting()?;
            let port = ServicePort { service: Arc::clone(self), listener, slot: None };
            self.accepting.spawn_on(worker, Arc::clone(self).accept(port, balancer));
            self.loops.fetch_add(1, Relaxed);
        }
        if let Some(worker) = workers.first() {
            let service = Arc::clone(self);
            // Not ended by a stop: who is no longer trusted does not stay because others drain.
            self.revalidating.spawn_on(worker, async move { service.follow_trust().await });
        }
        if let (Some(worker), Some(health)) = (workers.first(), self.config.health.clone()) {
            let service = Arc::clone(self);
            self.accepting.spawn_on(worker, async move {
                let stop = service.stop.clone();
                stop.run_until_cancelled(health::follow(&service, &health)).await;
            });
        }
        Ok(())
    }

    /// One worker's loop; each kind of connection has a task of its own size.
    async fn accept(self: Arc<Self>, port: ServicePort, balancer: AcceptBalancer<Slot>) {
        let (conns, stop) = (self.conns.clone(), self.stop.clone());
        if self.config.hbone.is_none() {
            let serve = move |socket, peer, Slot(slot)| {
                connection::serve(Arc::clone(&self), socket, peer).map(|()| drop(slot))
            };
            return accept_loop(port, balancer, conns, stop, serve).await;
        }
        match self.pool() {
            Err(error) => {
                let service = self.config.name.as_str();
                tracing::error!(service, %error, "the connection pool could not be created");
            }
            Ok(Some(pool)) => {
                let serve = move |socket, peer, Slot(slot)| {
                    let (service, pool) = (Arc::clone(&self), Arc::clone(&pool));
                    client_of_tunnels(service, pool, socket, peer).map(|()| drop(slot))
                };
                accept_loop(port, balancer, conns, stop, serve).await;
            }
            Ok(None) => {
                let tunnels = Arc::new(hbone::ServiceDestination::new(&self));
                let serve = move |socket, peer, Slot(_)| {
                    let (streams, stop) = (self.conns.clone(), self.stop.clone());
                    hbone::serve(Arc::clone(&tunnels), (socket, peer), streams, stop)
                };
                accept_loop(port, balancer, conns, stop, serve).await;
            }
        }
    }

    /// This worker's tunnels, if it makes any.
    fn pool(&self) -> io::Result<Option<Arc<Pool>>> {
        if self.config.hbone.is_none() || self.config.role == Role::Server {
            return Ok(None);
        }
        let (tasks, closing) = (self.conns.clone(), self.stop.clone());
        Ok(Some(Arc::new(hbone::pool(self, tasks, closing)?)))
    }
}

/// Carries one plain connection through a tunnel, and leaves its record.
async fn client_of_tunnels(
    service: Arc<Service>,
    pool: Arc<Pool>,
    socket: TcpStream,
    peer: SocketAddr,
) {
    let Some(hbone) = &service.config.hbone else { return };
    let conn = service.record(peer);
    let carried = tokio::select! {
        outcome = hbone::client(&service, hbone, &pool, socket, &conn) => outcome,
        reason = conn.live().until_cut() => (reason, None),
    };
    outcome::finish(&service, conn, carried);
}

/// One worker's part of a service's listener.
struct ServicePort {
    service: Arc<Service>,
    listener: Accepting,
    /// What the next caller of a client has waited for.
    slot: Option<OwnedSemaphorePermit>,
}

/// The place of a client's caller among the connections at once, where there are so many only.
struct Slot(Option<OwnedSemaphorePermit>);

/// Each connection is in order for itself.
impl Arrival for Slot {
    fn tie(&self) -> Tie {
        Tie::None
    }

    fn goes_to(&self, _: usize) {}
}

impl Port for ServicePort {
    type Arrival = Slot;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        // Before accept: who is too many waits in the kernel's queue. Who calls a server waits
        // behind its proof, that silent callers may keep nobody out.
        if self.slot.is_none() && self.service.config.role == Role::Client {
            self.slot = self.service.slot().await;
        }
        self.listener.accept().await
    }

    fn arrived(&mut self, _: &TcpStream, _: SocketAddr) -> Option<Slot> {
        self.service.counts.accepted.fetch_add(1, Relaxed);
        Some(Slot(self.slot.take()))
    }

    fn is_too_much(&self, _: BorrowedFd<'_>, _: usize) -> bool {
        false
    }

    fn name(&self) -> &str {
        &self.service.config.name
    }

    fn accept_failed(&self) {
        self.service.telemetry.metrics.listeners.accept_failed(self.name());
    }
}
