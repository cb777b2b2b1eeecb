//! One pod of the node: its namespace, its listeners, its tunnels.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

use super::{Node, Recognition, attached::Entered, owned::Owned};
use crate::{
    hbone::Callers,
    lifecycle::{Places, Tasks},
    net::{CloseReason, PodName},
    proxy::egress::EndpointHealth,
    relay::{App, SockmapRedirect},
    sys::{netns::Netns, sockmap::Watched},
    tls::Acceptor,
};

/// One pod that is attached. Dropping it does not stop it: see [`Pod::stop`].
pub struct Pod {
    /// What it is called; its workload is looked up in each view.
    pub name: Arc<PodName>,
    /// Its network namespace.
    pub netns: Arc<Netns>,
    /// What that holds beside the addresses of its workload.
    pub(super) owned: Owned,
    /// Whether that workload is it.
    pub(super) recognition: watch::Sender<Recognition>,
    /// Connections that wait for that to be known.
    pub(super) waiting: Semaphore,
    /// Connections that wait for a policy to be known.
    pub(super) waiting_for_policy: Semaphore,
    /// Connections that have a name resolved.
    pub(super) resolving: Arc<Semaphore>,
    /// How the endpoints do that it calls.
    pub(super) endpoints: Arc<EndpointHealth>,
    /// Clients of SOCKS5 that have not said yet what they want.
    pub(super) asking: Semaphore,
    /// Whether applications see the callers' addresses, where the kernel can: rules in its
    /// namespace lead their answers back.
    pub(super) keeps_source: bool,
    pub(super) acceptor: Acceptor,
    /// The acceptor of tunnels at applications' own ports.
    pub(super) original_port: Acceptor,
    pub(super) tunnel_places: Arc<Semaphore>,
    pub(super) callers: Callers,
    /// Callers that have not proven who they are: they take no place of a tunnel.
    pub(super) handshakes: Places<IpAddr>,
    pub(super) watched: Option<Arc<Watched>>,
    pub(super) _counted: Entered,
    /// Fires when nothing new is accepted any more.
    pub(super) accepting: CancellationToken,
    /// Connections: captured ones, and the streams of tunnels that arrive.
    pub(super) conns: Tasks,
    /// Tunnels that arrive, and the accept loops of all three ports.
    pub(super) tunnels: Tasks,
    /// What listens for its DNS queries …
    pub(super) dns: Tasks,
    /// … and what answers those that others are asked.
    pub(super) answers: Tasks,
}

impl Pod {
    /// The application at the other end of `socket`, by the sockmap redirect if there is one; what
    /// it takes for its own other end is told by `remote`.
    pub(super) fn app(
        &self,
        socket: TcpStream,
        remote: fn(&TcpStream) -> io::Result<SocketAddr>,
    ) -> App {
        match self.watched.as_ref().map(|watched| (watched, remote(&socket))) {
            Some((watched, Ok(remote))) => App::new(socket)
                .with_sockmap_redirect(SockmapRedirect::new(Arc::clone(watched), remote)),
            _ => App::new(socket),
        }
    }

    /// Takes no new connections, and says GOAWAY in its tunnels: the first phase of [`Pod::stop`].
    pub fn stop_accepting(&self) {
        self.accepting.cancel();
        self.dns.cut();
    }

    /// What is known of it.
    #[must_use]
    pub fn recognition(&self) -> Recognition {
        self.recognition.borrow().clone()
    }

    /// Says what is known of it from now on; whoever waits looks again. A pod that has left stays
    /// so.
    pub fn set_recognition(&self, now: Recognition) {
        self.recognition.send_if_modified(|known| {
            let may = *known != Recognition::Left;
            if may {
                *known = now;
            }
            may
        });
    }

    /// The pod's keys are not its own any longer: nothing begins that would need one.
    pub fn leave(&self) {
        self.set_recognition(Recognition::Left);
    }

    /// Stops the pod in three phases: no new connections and GOAWAY; up to `grace` for live
    /// ones, less if `hurry` fires; then the rest is cut, each with its record, and what is
    /// queued in tunnels is sent. Returns how many were cut.
    pub async fn stop(&self, node: &Node, grace: Duration, hurry: &CancellationToken) -> usize {
        self.stop_accepting();
        let ended = async {
            self.conns.ended().await;
            // A handshake that was under way may bring streams still: its tunnel says GOAWAY first.
            let _ = tokio::time::timeout(LATE_STREAMS, self.tunnels.ended()).await;
            tokio::join!(self.conns.ended(), self.answers.ended());
        };
        tokio::select! {
            _ = tokio::time::timeout(grace, ended) => {}
            () = hurry.cancelled() => {}
        }
        self.answers.cut();
        let left = self.conns.len();
        for conn in node.telemetry.live.all() {
            if conn.metadata(|f| f.pod.as_ref().is_some_and(|pod| Arc::ptr_eq(pod, &self.name))) {
                conn.cut(CloseReason::Drained);
            }
        }
        self.conns.drain(LAST_WORDS).await;
        self.tunnels.drain(LAST_WORDS).await;
        left
    }
}

/// How many names are resolved for one pod at once: a few of the threads that all pods share.
pub(super) const MOST_RESOLVING: usize = 8;

/// How many connections of one pod wait at once for it to be known who it is.
pub(super) const MOST_WAITING: usize = 512;

/// How long tunnels whose handshake was under way at a stop may take to say that they take nothing.
const LATE_STREAMS: Duration = Duration::from_secs(1);

/// How long connections may take to record their end, and tunnels to send what is queued.
const LAST_WORDS: Duration = Duration::from_millis(500);
