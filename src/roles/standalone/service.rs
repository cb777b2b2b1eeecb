//! One listener with its targets: takes connections until it is told to stop.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    Role, ServiceConfig,
    local_identity::identity,
    outcome::Outcome,
    targets::Targets,
    timer::Timer,
    tls::{Config, Configs},
    trusted_peers::TrustedPeers,
};
use crate::{
    credentials::store::CredentialStore,
    hbone::Callers,
    lifecycle::{Place, Places, Tasks, source},
    net::{CloseReason, Direction, PeerAddr},
    observe::{
        Telemetry,
        conn::{Names, OpenConn},
        metrics::SocketCount,
    },
    policy::AccessControl,
};

/// How many callers of a server may be there that have not proven who they are …
const UNPROVEN: usize = 4_096;
/// … and from one source: then its own oldest is given up.
const UNPROVEN_OF_ONE: usize = 1_024;

/// What the status endpoint counts, beside the metrics of the process.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections taken.
    pub accepted: AtomicU64,
    /// Handshakes that completed with an allowed peer.
    pub succeeded: AtomicU64,
    /// Those that did not.
    pub failed: AtomicU64,
    /// Those that took too long.
    pub timed_out: AtomicU64,
    /// Connections that were ended as they had lasted, or been half closed, too long.
    pub ended_by_limit: AtomicU64,
    /// How long TLS handshakes took.
    pub handshake: Timer,
    /// How long connections were open.
    pub lifetime: Timer,
}

/// A service that runs.
pub struct Service {
    /// As configured.
    pub config: ServiceConfig,
    /// The access rules: allowed clients (server) or accepted targets (client).
    pub access: AccessControl,
    /// What is shown and trusted, as of now.
    pub store: Arc<CredentialStore>,
    /// What it has counted.
    pub counts: Counts,
    /// Where it connects to, and how they are.
    pub targets: Arc<Targets>,
    pub(super) telemetry: Telemetry,
    pub(super) names: Arc<Names>,
    pub(super) trusted_peers: TrustedPeers,
    pub(super) callers: Callers,
    configs: Configs,
    /// What an edit has put in its place.
    pub(super) successor: ArcSwapOption<Self>,
    slots: Option<Arc<Semaphore>>,
    /// Callers that have not proven who they are: they take no slot.
    unproven: Places<IpAddr>,
    pub(super) stop: CancellationToken,
    pub(super) accepting: Tasks,
    pub(super) revalidating: Tasks,
    pub(super) conns: Tasks,
    /// How many tasks of `accepting` run, when all is well.
    pub(super) loops: AtomicUsize,
}

impl Service {
    /// Makes it ready; it takes nothing yet.
    ///
    /// # Errors
    /// If its credentials cannot be made into a TLS configuration.
    pub fn new(
        config: ServiceConfig,
        access: AccessControl,
        store: Arc<CredentialStore>,
        telemetry: Telemetry,
    ) -> Result<Arc<Self>, String> {
        let name: Arc<str> = config.name.as_str().into();
        let names = Names::of(Arc::clone(&name), "".into());
        let metrics = Arc::clone(&telemetry.metrics);
        let targets = Targets::new(&config.name, &config.targets, config.balance, metrics);
        let slots = config.max_connections.map(|most| Arc::new(Semaphore::new(most)));
        let trusted_peers = TrustedPeers::new(&store.current(), access.watch_banned());
        // A balancer is the source of all that comes through it.
        let of_one = if config.proxy_in { UNPROVEN } else { UNPROVEN_OF_ONE };
        let service = Self {
            config,
            access,
            trusted_peers,
            callers: Callers::default(),
            store,
            counts: Counts::default(),
            targets: Arc::new(targets),
            telemetry,
            names: Arc::new(names),
            configs: Configs::default(),
            successor: ArcSwapOption::empty(),
            slots,
            unproven: Places::new(UNPROVEN, of_one),
            stop: CancellationToken::new(),
            accepting: Tasks::default(),
            revalidating: Tasks::default(),
            conns: Tasks::default(),
            loops: AtomicUsize::new(0),
        };
        match &service.config.hbone {
            Some(_) => identity(&service.store.current()).map(drop)?,
            None => drop(service.tls()?),
        }
        Ok(Arc::new(service))
    }

    /// Takes no more connections; those that are open go on.
    pub fn stop_accepting(&self) {
        self.stop.cancel();
    }

    /// Waits for the connections that are open, then cuts them: how many were cut.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.stop.cancel();
        self.accepting.ended().await;
        let cut = self.conns.drain(grace).await;
        self.revalidating.cut();
        cut
    }

    /// Cuts what is open, without waiting: how many that were.
    pub fn cut(&self) -> usize {
        let open = self.conns.len();
        self.conns.cut();
        open
    }

    /// Whether it has been told to stop.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Whether each of its workers still accepts and open connections are checked against what is
    /// trusted now, or it has been told to stop.
    #[must_use]
    pub fn accepts(&self) -> bool {
        let loops = self.loops.load(Relaxed);
        let revalidates = loops == 0 || !self.revalidating.is_empty();
        self.stop.is_cancelled() || (self.accepting.len() >= loops && revalidates)
    }

    /// How many connections are open, handshakes included.
    #[must_use]
    pub fn open(&self) -> usize {
        self.conns.len()
    }

    /// What rustls makes handshakes with now: the certificate that is shown and, where the peer must
    /// show one, what verifies its chain against the roots and CRLs of now.
    ///
    /// # Errors
    /// Why there is no such configuration.
    pub(super) fn tls(&self) -> Result<Config, String> {
        self.configs.of(&self.store.current(), self.config.role, &self.config.tls)
    }

    /// A place among the connections at once, once there is one. Cancel safe.
    pub(super) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        match &self.slots {
            None => None,
            Some(slots) => Arc::clone(slots).acquire_owned().await.ok(),
        }
    }

    /// A place for a caller who has to prove who that is, of a server.
    pub(super) fn unproven(&self, peer: SocketAddr) -> Result<Unproven, Outcome> {
        let place = match self.config.role {
            Role::Client => None,
            Role::Server => {
                let place = self.unproven.take(source(peer.ip()));
                Some(place.ok_or_else(|| {
                    overloaded("too many unauthenticated connections are waiting")
                })?)
            }
        };
        Ok(Unproven(place))
    }

    pub(super) fn direction(&self) -> Direction {
        match self.config.role {
            Role::Server => Direction::Inbound,
            Role::Client => Direction::Outbound,
        }
    }

    /// An accepted socket, in the gauge of open ones until this is dropped.
    pub(super) fn counted(&self) -> SocketCount {
        self.telemetry.metrics.listeners.socket(self.direction())
    }

    /// Counts a handshake, of TLS or of a tunnel, that came to nothing.
    pub(super) fn handshake_failed(&self, reason: CloseReason) {
        self.telemetry.metrics.tunnels.handshake_failed(self.direction(), reason);
    }

    pub(super) fn record(&self, peer: SocketAddr) -> OpenConn {
        let conn = OpenConn::open(&self.telemetry, self.direction(), PeerAddr(peer));
        conn.metadata(|f| {
            f.service = Some(Arc::clone(&self.names.workload));
            f.protocol = Some("TCP");
            let ours = match self.config.role {
                Role::Server => &mut f.dst,
                Role::Client => &mut f.src,
            };
            ours.names = Some(Arc::clone(&self.names));
        });
        conn
    }
}

/// The place of a caller of a server until it has proven who it is, and has a slot.
pub(super) struct Unproven(Option<Place<IpAddr>>);

impl Unproven {
    /// Ends when somebody else needs the place. Cancel safe.
    pub(super) async fn given_up(&self) -> Outcome {
        match &self.0 {
            Some(place) => place.given_up().await,
            None => std::future::pending().await,
        }
        overloaded("it was closed before it was authenticated, in favour of a newer connection")
    }

    /// Waits for a slot, as somebody who has proven who that is; not beyond `cut`.
    pub(super) async fn slot(
        self,
        service: &Service,
        cut: impl Future<Output = Outcome>,
    ) -> Result<Option<OwnedSemaphorePermit>, Outcome> {
        self.0.iter().for_each(Place::prove);
        tokio::select! {
            biased;
            outcome = cut => Err(outcome),
            slot = service.slot() => Ok(slot),
            outcome = self.given_up() => Err(outcome),
        }
    }
}

fn overloaded(why: &str) -> Outcome {
    (CloseReason::Overloaded, Some(why.to_owned()))
}
