//! The listener of a service: takes connections on every worker until it is told to stop, and
//! hands each to who serves its kind.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use futures_util::FutureExt as _;
use tokio::{net::TcpStream, runtime::Handle, sync::OwnedSemaphorePermit};

use super::{Role, Service, connection, hbone, health, outcome};
use crate::{
    hbone::Pool,
    lifecycle::{AcceptBackoff, is_of_one_connection},
    net::{Accepting, Listening},
    sys::descriptors::of_traffic,
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
        for worker in workers {
            let _context = worker.enter();
            let listener = listening.accepting()?;
            self.accepting.spawn_on(worker, Arc::clone(self).accept(listener));
            self.loops.fetch_add(1, Relaxed);
        }
        if let Some(worker) = workers.first() {
            let service = Arc::clone(self);
            // Not ended by a stop: who is no longer trusted does not stay because others drain.
            self.revalidating.spawn_on(worker, async move {
                service.revalidator.follow(&service).await;
            });
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

    async fn accept(self: Arc<Self>, listener: Accepting) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.take(&listener) => {}
        }
    }

    async fn take(self: &Arc<Self>, listener: &Accepting) {
        let mut backoff = AcceptBackoff::new(&*self.config.name);
        let pool = match self.pool() {
            Ok(pool) => pool,
            Err(error) => {
                return tracing::error!(service = self.config.name, %error, "the connection pool \
                    could not be created");
            }
        };
        let tunnels = Arc::new(hbone::ServiceDestination::new(self));
        loop {
            // Before accept: who is too many waits in the kernel's queue. Who calls a server waits
            // behind its proof, that silent callers may keep nobody out.
            let slot = match self.config.role {
                Role::Client => self.slot().await,
                Role::Server => None,
            };
            let accepted = listener.accept().await;
            match accepted.and_then(|(socket, peer)| Ok((of_traffic(socket)?, peer))) {
                Ok((socket, peer)) => {
                    backoff.succeeded();
                    self.counts.accepted.fetch_add(1, Relaxed);
                    self.dispatch(socket, peer, slot, pool.as_ref(), &tunnels);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.telemetry.metrics.listeners.accept_failed(&self.config.name);
                    backoff.failed(&error).await;
                }
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

    fn dispatch(
        self: &Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        slot: Option<OwnedSemaphorePermit>,
        pool: Option<&Arc<Pool>>,
        tunnels: &Arc<hbone::ServiceDestination>,
    ) {
        let service = Arc::clone(self);
        if self.config.hbone.is_none() {
            let served = connection::serve(service, socket, peer);
            return self.conns.spawn(served.map(|()| drop(slot)));
        }
        let Some(pool) = pool.map(Arc::clone) else {
            let (streams, stop) = (self.conns.clone(), self.stop.clone());
            let served = hbone::serve(Arc::clone(tunnels), (socket, peer), streams, stop);
            return self.conns.spawn(served);
        };
        let conn = self.record(peer);
        self.conns.spawn(async move {
            let Some(hbone) = &service.config.hbone else { return };
            let carried = tokio::select! {
                outcome = hbone::client(&service, hbone, &pool, socket, &conn) => outcome,
                reason = conn.live().until_cut() => (reason, None),
            };
            outcome::finish(&service, conn, carried);
            drop(slot);
        });
    }
}
