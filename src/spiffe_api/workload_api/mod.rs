//! The server: one Unix socket per node, where each process gets the identities that are
//! registered for it and no other.
//!
//! A call passes in this order: the security header ([`gate`]), the caller's share
//! ([`limits`]), what the caller is ([`attest`]), what it may have ([`entitled()`]); then it is
//! answered ([`service`]), for streams as often as something changes ([`feed`]).

mod attest;
mod entitled;
mod feed;
mod gate;
mod limits;
mod messages;
mod service;
mod shared;

use std::{io, os::fd::AsFd as _, path::Path, sync::Arc};

use tokio::sync::watch;
use tonic::service::Routes;

pub use self::entitled::{
    AttachedPod, CallerFacts, Entitlement, Entry, HELD_AS, Registrations, Selectors, entitled,
};
use self::{
    attest::CallingProcess,
    limits::{CONNECTIONS, CONNECTIONS_OF_ONE, CallerGroup, UsageLimits},
    service::Service,
    shared::Shared,
};
use crate::{
    credentials::Svids,
    identity::TrustDomain,
    lifecycle::{AcceptBackoff, Listeners, Places, Tasks, is_of_one_connection},
    rpc::{self, workload::spiffe_workload_api_server::SpiffeWorkloadApiServer},
    sys::descriptors::{is_more_than_its_part, of_traffic},
};

/// The longest request, bytes: a token with its audience fits many times.
const REQUEST: usize = 128 << 10;

/// A Workload API server.
pub struct WorkloadApi {
    shared: Arc<Shared>,
    routes: Routes,
    listener: rpc::Listener,
    places: Places<CallerGroup>,
}

/// Tells a running server what is registered.
#[derive(Clone)]
pub struct Registrar(Arc<Shared>);

impl WorkloadApi {
    /// Opens the socket. Callers are told to wait until something is registered.
    ///
    /// # Errors
    /// Names the socket and what is in the way.
    pub fn open(
        socket: &Path,
        mode: u32,
        svids: Arc<Svids>,
        trust_domain: TrustDomain,
        listeners: &Arc<Listeners>,
    ) -> io::Result<Self> {
        let listener = rpc::listen(socket, mode, listeners)?;
        let registered = watch::Sender::new(None);
        let shared =
            Arc::new(Shared { svids, trust_domain, registered, limits: UsageLimits::default() });
        let api = SpiffeWorkloadApiServer::new(Service(Arc::clone(&shared)));
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(rpc::WORKLOAD_DESCRIPTORS)
        };
        let v1 = reflection().build_v1().map_err(io::Error::other)?;
        let v1alpha = reflection().build_v1alpha().map_err(io::Error::other)?;
        let routes = Routes::new(api.max_decoding_message_size(REQUEST))
            .add_service(v1.max_decoding_message_size(REQUEST))
            .add_service(v1alpha.max_decoding_message_size(REQUEST))
            .prepare();
        let places = Places::new(CONNECTIONS, CONNECTIONS_OF_ONE);
        Ok(Self { shared, routes, listener, places })
    }

    /// Who tells it what is registered.
    #[must_use]
    pub fn registrar(&self) -> Registrar {
        Registrar(Arc::clone(&self.shared))
    }

    /// Serves until cut, each connection in a task of its own among `tasks`; the socket goes with
    /// it.
    pub async fn serve(self, tasks: Tasks) {
        let mut backoff = AcceptBackoff::new("Workload API");
        loop {
            // What is kept is for certificates, rules and operators, not for callers.
            let socket = match self.listener.accept().await.and_then(of_traffic) {
                Ok(socket) => socket,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    backoff.failed(&error).await;
                    continue;
                }
            };
            backoff.succeeded();
            // As soon as can be: what the kernel says is of the moment of the connect.
            let Ok(caller) = CallingProcess::of(&socket) else { continue };
            let known = self.shared.registered.borrow().clone();
            let group = CallerGroup::of(caller.uid(), caller.netns(), known.as_deref());
            let others = known.as_ref().map_or(0, |known| known.pods.len());
            if is_more_than_its_part(socket.as_fd(), self.places.of(&group), others) {
                let (uid, pid) = (caller.uid(), caller.pid());
                tracing::debug!(
                    target: "workload_api", uid, pid,
                    "too few file descriptors are left for more connections"
                );
                continue;
            }
            let Some(seat) = self.places.take(group) else {
                let (uid, pid) = (caller.uid(), caller.pid());
                tracing::debug!(target: "workload_api", uid, pid, "too many connections");
                continue;
            };
            match self.shared.limits.connect(group, caller.pid()) {
                Ok(place) => {
                    let (shared, routes) = (Arc::clone(&self.shared), self.routes.clone());
                    let caller = Arc::new(caller);
                    let conn =
                        gate::CallerConnection { shared, routes, caller, group, place, seat };
                    tasks.spawn(conn.serve(socket, tasks.clone()));
                }
                Err(why) => {
                    let (uid, pid) = (caller.uid(), caller.pid());
                    tracing::debug!(target: "workload_api", uid, pid, %why, "connection refused");
                }
            }
        }
    }
}

impl Registrar {
    /// Replaces what is registered: SVIDs of new entries are fetched, those of entries that are
    /// gone are let go of, and every stream is told.
    pub fn register(&self, registered: Registrations) {
        let svids = &self.0.svids;
        let held: Vec<_> = registered.entries.iter().map(|e| (e.held_as(), &e.id)).collect();
        held.iter().for_each(|(uid, id)| svids.watch(uid, id));
        let stays = |uid: &str| !uid.starts_with(HELD_AS) || held.iter().any(|(h, _)| **h == *uid);
        svids.retain(stays);
        drop(held);
        self.0.registered.send_replace(Some(Arc::new(registered)));
    }
}
