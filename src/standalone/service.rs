//! One listener with its targets: takes connections until it is told to stop.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::FutureExt as _;
use tokio::{
    net::TcpStream,
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    ForwardProxy, ProxyMode, TlsOptions, connection,
    hbone::{self, Hbone},
    health::{self, HealthConfig},
    outcome::{self, Outcome},
    revalidate::TrustRevalidator,
    status::HttpUrl,
    targets::{Balance, Targets},
    timer::Timer,
    tls::{Config, Configs},
};
use crate::{
    credentials::store::{CredentialStore, CredentialsConfig},
    hbone::{Callers, PeerExpiry, Pool},
    lifecycle::{Place, Places, Tasks, source},
    net::{Accepting, Address, CloseReason, Direction, Listening, PeerAddr},
    observe::{
        Telemetry,
        conn::{Names, OpenConn},
        metrics::SocketCount,
    },
    policy::{Access, AccessControl},
    relay,
    sys::descriptors::of_traffic,
};

/// How many callers of a server may be there that have not proven who they are …
const UNPROVEN: usize = 4_096;
/// … and from one source: then its own oldest is given up.
const UNPROVEN_OF_ONE: usize = 1_024;

/// Which side speaks TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// TLS comes in, plaintext goes to the target.
    Server,
    /// Plaintext comes in, TLS goes to the target.
    Client,
}

impl Role {
    /// The word on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// What is not logged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Quiet {
    /// Connections that ended in order.
    pub conns: bool,
    /// Connections that failed.
    pub conn_errs: bool,
    /// Handshakes that failed.
    pub handshake_errs: bool,
}

impl Quiet {
    /// Whether a connection that ended so leaves a line.
    pub(super) fn logs(self, reason: CloseReason) -> bool {
        match (reason, reason.response_flags()) {
            (CloseReason::Completed | CloseReason::Silent, _) => !self.conns,
            (_, "TLS_FAILURE" | "IDENTITY_ERROR" | "DENY") => !self.handshake_errs,
            _ => !self.conn_errs,
        }
    }
}

/// A service as configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceConfig {
    /// How logs and metrics call it.
    pub name: String,
    /// Which side speaks TLS.
    pub role: Role,
    /// Where it listens.
    pub listen: Address,
    /// Where it connects to, the first that works.
    pub targets: Vec<Address>,
    /// Which of them comes first.
    pub balance: Balance,
    /// What they are behind (client).
    pub proxy: Option<ForwardProxy>,
    /// Whether they are asked if they are well.
    pub health: Option<HealthConfig>,
    /// Plaintext may go to another host (server).
    pub unsafe_target: bool,
    /// Plaintext may come from other hosts (client).
    pub unsafe_listen: bool,
    /// What is shown and trusted.
    pub material: CredentialsConfig,
    /// Whom it admits (server), or wants to find (client; nothing named means the name alone).
    pub access: Access,
    /// What the handshake offers and demands.
    pub tls: TlsOptions,
    /// Whether the kernel makes the records where it can.
    pub kernel_tls: bool,
    /// The name that the server's certificate must have, and SNI (client).
    pub server_name: Option<String>,
    /// Handshake, access rules and dial together.
    pub connect: Duration,
    /// How long a connection may be silent.
    pub limits: relay::Limits,
    /// How long a connection may last after its handshake.
    pub lifetime: Option<Duration>,
    /// How many connections at once; more wait: to be accepted, or with a server behind their
    /// handshake.
    pub max_connections: Option<usize>,
    /// A PROXY header comes first on what is accepted.
    pub proxy_in: bool,
    /// A PROXY header goes first to the target.
    pub proxy_out: Option<ProxyMode>,
    /// HBONE on the wire instead of TLS alone.
    pub hbone: Option<Hbone>,
    /// What becomes of a connection whose peer's certificate has run out.
    pub peer_expiry: PeerExpiry,
    /// What is not logged.
    pub quiet: Quiet,
    /// What the status endpoint asks for through the target; 200 means that it is well (server).
    pub target_status: Option<HttpUrl>,
}

/// What the status endpoint counts, beside the metrics of the process.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections taken.
    pub accepted: AtomicU64,
    /// Handshakes that ended well, with somebody who may be here.
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
    /// Whom it admits, or wants to find.
    pub access: AccessControl,
    /// What is shown and trusted, as of now.
    pub keeper: Arc<CredentialStore>,
    /// What it has counted.
    pub counts: Counts,
    /// Where it connects to, and how they are.
    pub targets: Arc<Targets>,
    pub(super) telemetry: Telemetry,
    pub(super) names: Arc<Names>,
    pub(super) revalidator: TrustRevalidator,
    pub(super) callers: Callers,
    configs: Configs,
    /// What an edit has put in its place.
    pub(super) successor: ArcSwapOption<Self>,
    slots: Option<Arc<Semaphore>>,
    /// Callers that have not proven who they are: they take no slot.
    unproven: Places<IpAddr>,
    stop: CancellationToken,
    accepting: Tasks,
    revalidating: Tasks,
    conns: Tasks,
    /// How many tasks of `accepting` run, when all is well.
    loops: AtomicUsize,
}

impl Service {
    /// Makes it ready; it takes nothing yet.
    ///
    /// # Errors
    /// If its credentials cannot be made into a TLS configuration.
    pub fn new(
        config: ServiceConfig,
        access: AccessControl,
        keeper: Arc<CredentialStore>,
        telemetry: Telemetry,
    ) -> Result<Arc<Self>, String> {
        let name: Arc<str> = config.name.as_str().into();
        let names = Names {
            workload: Arc::clone(&name),
            namespace: "".into(),
            app: Arc::clone(&name),
            version: None,
        };
        let metrics = Arc::clone(&telemetry.metrics);
        let targets = Targets::new(&config.name, &config.targets, config.balance, metrics);
        let slots = config.max_connections.map(|most| Arc::new(Semaphore::new(most)));
        let revalidator = TrustRevalidator::new(&keeper.current(), access.watch_banned());
        // A balancer is the source of all that comes through it.
        let of_one = if config.proxy_in { UNPROVEN } else { UNPROVEN_OF_ONE };
        let service = Self {
            config,
            access,
            revalidator,
            callers: Callers::default(),
            keeper,
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
            Some(_) => hbone::identity(&service.keeper.current()).map(drop)?,
            None => drop(service.tls()?),
        }
        Ok(Arc::new(service))
    }

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

    /// Whether each of its workers still accepts and open connections are held to what is trusted
    /// now, or it has been told to stop.
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

    pub(super) fn tls(&self) -> Result<Config, String> {
        self.configs.of(&self.keeper.current(), self.config.role, &self.config.tls)
    }

    async fn accept(self: Arc<Self>, listener: Accepting) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.take(&listener) => {}
        }
    }

    async fn take(self: &Arc<Self>, listener: &Accepting) {
        let mut pause = Duration::from_millis(5);
        let pool = match self.pool() {
            Ok(pool) => pool,
            Err(error) => return tracing::error!(service = self.config.name, %error, "no pool"),
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
                    pause = Duration::from_millis(5);
                    self.counts.accepted.fetch_add(1, Relaxed);
                    self.carry(socket, peer, slot, pool.as_ref(), &tunnels);
                }
                Err(error) if of_one_connection(&error) => {}
                Err(error) => {
                    let service = self.config.name.as_str();
                    self.telemetry.metrics.listeners.accept_failed(service);
                    tracing::warn!(service, %error, ?pause, "accept failed, backing off");
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
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
                Some(place.ok_or_else(|| overloaded("too many connections wait for a place"))?)
            }
        };
        Ok(Unproven(place))
    }

    /// This worker's tunnels, if it makes any.
    fn pool(&self) -> io::Result<Option<Arc<Pool>>> {
        if self.config.hbone.is_none() || self.config.role == Role::Server {
            return Ok(None);
        }
        let (tasks, closing) = (self.conns.clone(), self.stop.clone());
        Ok(Some(Arc::new(hbone::pool(self, tasks, closing)?)))
    }

    fn carry(
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
        let labels = [self.direction().reporter(), reason.as_str()];
        self.telemetry.metrics.tunnels.handshake_failures.with_label_values(&labels).inc();
    }

    /// Counts a tunnel that was closed because its peer is no longer trusted.
    pub(super) fn tunnel_closed(&self, reason: CloseReason) {
        let labels = [self.direction().reporter(), reason.as_str()];
        self.telemetry.metrics.tunnels.closed.with_label_values(&labels).inc();
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
        overloaded("it was given up for a newer one before it had proven who it is")
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

fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::Interrupted)
}
