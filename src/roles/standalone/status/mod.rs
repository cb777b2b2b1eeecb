//! What an operator sees of the services of one process: `/_status`, `/_metrics`, `/_shutdown`
//! over HTTP, with ghostunnel's names and more; and metrics pushed to where they are wanted.
//!
//! [`Status`] is told what happens and knows whom to ask; `serve` listens, `report` and `metrics`
//! make the bodies, `push` sends metrics. Not here: signals and the service manager
//! ([`crate::app`]).

mod address;
mod http_url;
mod metrics;
mod push;
mod report;
mod serve;
mod view;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

pub(super) use http_url::exchange;
pub use {
    address::{Scheme, StatusAddress},
    http_url::HttpUrl,
    push::push,
    serve::serve,
};

use super::Service;
use crate::{
    net::Address,
    observe::{Refusal, Refused, Telemetry},
};

/// What is shown, where, and what may be done there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StatusConfig {
    /// Where it listens, if it does.
    pub address: Option<StatusAddress>,
    /// Whether `POST /_shutdown` stops the process.
    pub shutdown: bool,
    /// What names of metrics begin with.
    pub prefix: String,
    /// Where metrics are pushed in Graphite's plaintext protocol, each second.
    pub graphite: Option<Address>,
    /// Where metrics are sent as JSON by POST.
    pub url: Option<HttpUrl>,
    /// How often.
    pub every: Duration,
    /// Roots for that URL, PEM; none are the system's.
    pub roots: Option<PathBuf>,
}

impl Default for StatusConfig {
    fn default() -> Self {
        Self {
            address: None,
            shutdown: false,
            prefix: "ghostunnel".into(),
            graphite: None,
            url: None,
            every: Duration::from_secs(30),
            roots: None,
        }
    }
}

/// What the process does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// It obtains its certificates.
    Initializing,
    /// It takes connections.
    Listening,
    /// It does so, and reads its files again.
    Reloading,
    /// It takes no more connections and waits for those that are open.
    Stopping,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Listening => "listening",
            Self::Reloading => "reloading",
            Self::Stopping => "stopping",
        }
    }
}

/// What is known of the process.
pub struct Status {
    config: StatusConfig,
    hostname: String,
    telemetry: Telemetry,
    services: ArcSwap<Vec<Arc<Service>>>,
    /// What is shown before there are services.
    planned: (String, String),
    state: Mutex<PhaseState>,
    shutdown: CancellationToken,
    /// Another process answers from now on.
    retired: CancellationToken,
    /// Whether the file that describes the services is what runs.
    file: Refusal,
    /// The last check of the targets: when it began, and what it found.
    checked: tokio::sync::Mutex<Option<(Instant, Checked)>>,
}

struct PhaseState {
    phase: Phase,
    since: SystemTime,
}

/// The services that were asked, and their answers.
type Checked = Arc<(Vec<Arc<Service>>, Vec<Result<(), String>>)>;

impl Status {
    /// Before anything runs; `planned` is where the first service listens and connects to.
    #[must_use]
    pub fn new(config: StatusConfig, telemetry: Telemetry, planned: (String, String)) -> Arc<Self> {
        let hostname = nix::unistd::gethostname().unwrap_or_default();
        Arc::new(Self {
            config,
            hostname: hostname.to_string_lossy().into_owned(),
            telemetry,
            services: ArcSwap::default(),
            planned,
            state: Mutex::new(PhaseState { phase: Phase::Initializing, since: SystemTime::now() }),
            shutdown: CancellationToken::new(),
            retired: CancellationToken::new(),
            file: Refusal::default(),
            checked: tokio::sync::Mutex::default(),
        })
    }

    /// These are the services now.
    pub fn set_services(&self, services: Vec<Arc<Service>>) {
        self.services.store(Arc::new(services));
    }

    /// The services now.
    #[must_use]
    pub fn services(&self) -> Arc<Vec<Arc<Service>>> {
        self.services.load_full()
    }

    /// The process does this from now on. Stopping is for good.
    pub fn set_phase(&self, phase: Phase) {
        let mut state = self.lock();
        if state.phase != Phase::Stopping {
            (state.phase, state.since) = (phase, SystemTime::now());
        }
    }

    /// The file that describes the services was read: what is wrong with it, if it was not taken.
    pub fn file_read(&self, fault: Option<&str>) {
        match fault {
            Some(fault) => self.file.refused(fault),
            None => self.file.taken(),
        }
    }

    /// All that is on disk and was not taken, and what that is.
    fn refused(&self) -> Vec<(String, Refused)> {
        let file = self.file.get().map(|refused| ("the configuration".to_owned(), refused));
        let services = self.services();
        let of_services = services.iter().flat_map(|service| {
            let policies = service.access.refused();
            let all = service.store.refused().into_iter().chain(policies);
            all.map(|refused| (format!("service {}", service.config.name), refused))
        });
        file.into_iter().chain(of_services).collect()
    }

    /// Waits for `POST /_shutdown`. Cancel safe.
    pub async fn until_shutdown(&self) {
        self.shutdown.cancelled().await;
    }

    /// Takes no more requests: another process has the socket, and answers for itself.
    pub fn retire(&self) {
        self.retired.cancel();
    }

    /// What the process does, in a line.
    #[must_use]
    pub fn one_line(&self) -> String {
        match self.state().0 {
            Phase::Stopping => report::one_line(self),
            _ => report::listening(&self.services()),
        }
    }

    /// Names by which operators call this machine: its own, and the one that the address has.
    fn own_names(&self) -> Vec<String> {
        let written = self.config.address.as_ref().and_then(|at| match &at.address {
            Address::Tcp { host, .. } => Some(host.clone()),
            _ => None,
        });
        written.into_iter().chain([self.hostname.clone()]).filter(|name| !name.is_empty()).collect()
    }

    /// What the process does, and since when.
    fn state(&self) -> (Phase, SystemTime) {
        let state = self.lock();
        (state.phase, state.since)
    }

    fn addresses(&self, services: &[Arc<Service>]) -> (String, String) {
        let Some(first) = services.first() else { return self.planned.clone() };
        let target = first.config.targets.first().map(ToString::to_string);
        (first.config.listen.to_string(), target.unwrap_or_default())
    }

    /// Asks all targets. One check runs at a time, and whoever asked before it began is content
    /// with its answer: many who ask cost the targets little.
    async fn check(&self) -> Checked {
        let asked = Instant::now();
        let mut last = self.checked.lock().await;
        if let Some((begun, found)) = &*last
            && *begun >= asked
        {
            return Arc::clone(found);
        }
        let begun = Instant::now();
        let services = self.services().to_vec();
        let answers = join_all(services.iter().map(|s| s.probe())).await;
        let found = Arc::new((services, answers));
        *last = Some((begun, Arc::clone(&found)));
        found
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PhaseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
