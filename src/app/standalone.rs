//! `adit server`, `adit client`, `adit proxy`: services until SIGTERM.

mod confined;
mod drain;
mod seen;
mod upgrade;
mod watchdog;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use self::{
    seen::{Seen, joined},
    upgrade::Itself,
};
use super::{
    begun::{ENDS, Stop},
    ebb::Ebb,
    fleet::{Fleet, NotOpened},
    workers::Workers,
};
use crate::{
    config::{self, Globals, LoadError},
    lifecycle::Tasks,
    observe::{Telemetry, logging::Logging},
    standalone::{Address, Predecessor, Role, ServiceConfig, Sockets, Stamp, stamp},
    sys::{descriptors, ktls},
};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOKS_IN_TEN_MINUTES: u32 = 1200;
/// How long a live edit may take to obtain what it names (a Workload API may be silent).
const OPEN_WITHIN: Duration = Duration::from_secs(15);

/// What the process does.
#[derive(Debug)]
pub struct Plan {
    /// For all services.
    pub globals: Globals,
    /// None is possible in a file only.
    pub services: Vec<ServiceConfig>,
    /// Whether the targets' names must resolve at start.
    pub resolve: bool,
    /// The file that describes them, if one does, and its state when it was read: it is followed.
    pub file: Option<(PathBuf, Stamp)>,
}

impl Plan {
    /// What a file says.
    ///
    /// # Errors
    /// All its faults.
    pub fn of_file(path: &Path) -> Result<Self, LoadError> {
        // Before it is read: an edit in between is then seen as one.
        let seen = stamp(path);
        let read = config::load_standalone(path)?;
        let file = Some((path.to_owned(), seen));
        Ok(Self { globals: read.globals, services: read.services, resolve: false, file })
    }
}

/// As many services as a start names.
const MOST_NAMED: usize = 8;

impl Plan {
    /// What the process is to do, for people.
    fn words(&self) -> String {
        let named = self.services.iter().take(MOST_NAMED).map(|service| {
            let (takes, hands) = match service.role {
                Role::Server => ("TLS", "plaintext"),
                Role::Client => ("plaintext", "TLS"),
            };
            let (name, listen, to) = (&service.name, &service.listen, joined(&service.targets));
            format!("{name}: {takes} on {listen}, {hands} to {to}")
        });
        let mut all: Vec<String> = named.collect();
        if let Some(more) = self.services.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
            all.push(format!("and {more} more"));
        }
        if let Some((file, _)) = &self.file {
            all.push(format!("as {} says", file.display()));
        }
        all.join("; ")
    }
}

/// Why services did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file that the configuration names.
    #[error("{0}")]
    Files(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<String> for StartError {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

impl From<NotOpened> for StartError {
    fn from(NotOpened { why, files }: NotOpened) -> Self {
        if files { Self::Files(why) } else { Self::Other(why) }
    }
}

/// Runs until SIGTERM or SIGINT, then drains. The exit code: 0 if all connections ended in time.
///
/// # Errors
/// If it cannot start.
pub fn run(plan: Plan) -> Result<u8, StartError> {
    // First of all: it changes the environment, which no thread may read meanwhile.
    let named = descriptors::from_service_manager();
    let named = named.map_err(|e| format!("sockets from systemd: {e}"))?;
    let itself = Itself::now();
    // Before it is confined: the kernel is asked over loopback.
    let kernel_tls = ktls::probe();
    let confined = confined::confine(&plan)?;
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    let format = plan.globals.log_format;
    let _logging = match plan.globals.syslog {
        true => Logging::start_syslog(format, &filter)?,
        false => Logging::start(format, &filter).map_err(|e| format!("RUST_LOG: {e}"))?,
    };
    crate::sys::process::harden();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        services = plan.words(),
        "adit starts; {ENDS}"
    );
    confined.log();
    match kernel_tls {
        Ok(found) => tracing::info!(tls12 = found.tls12, tls13 = found.tls13, "TLS in the kernel"),
        Err(why) => tracing::debug!(why, "no TLS in the kernel"),
    }
    let found = plan.globals.takeover.as_deref().map(Predecessor::find).transpose()?.flatten();
    let (predecessor, inherited) = found.unzip();
    let sockets = Sockets::new(named, inherited.unwrap_or_default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = Workers::start(plan.globals.workers.unwrap_or(cores));
    let workers = workers.map_err(|e| e.to_string())?;
    let control = Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let ran = control.block_on(serve(plan, &workers, sockets, predecessor, &itself));
    // A file that is still being read keeps nothing from ending.
    control.shutdown_background();
    drop(workers);
    ran
}

/// The signals that are waited for.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
    upgrade: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}

async fn serve(
    mut plan: Plan,
    workers: &Workers,
    mut sockets: Sockets,
    predecessor: Option<Predecessor>,
    itself: &Itself,
) -> Result<u8, StartError> {
    let mut signals = Signals::new().map_err(|e| e.to_string())?;
    let telemetry = Telemetry::new().map_err(|e| e.to_string())?;
    let tasks = Tasks::default();
    let mut seen = Seen::open(&plan, &telemetry, &mut sockets, &tasks)?;
    let services = std::mem::take(&mut plan.services);
    if plan.resolve {
        for service in &services {
            resolve(service).await?;
        }
    }
    let mut fleet = Fleet::new(telemetry.clone(), workers.handles.clone(), sockets);
    tokio::select! {
        applied = fleet.apply(services, Duration::ZERO) => drop(applied?),
        _ = signals.terminate.recv() => return Ok(0),
        _ = signals.interrupt.recv() => return Ok(0),
        () = seen.status.until_shutdown() => return Ok(0),
    }
    fleet.drop_unused_sockets();
    seen.status.set_services(fleet.services());
    seen.listening();
    seen.feed_watchdog(workers, &tasks);
    seen.succeed(predecessor, fleet.listeners())?;
    // They have just been read.
    let timed = |every| tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    let mut timed = plan.globals.timed_reload.map(timed);
    let mut look = tokio::time::interval(LOOK_EVERY);
    let (mut ebb, mut looks) = (Ebb::default(), 0_u32);
    let mut file = plan.file.map(|(path, seen)| Watched { path, seen, changing: None });
    let stop = {
        // One wait throughout: a reload does not disturb a process that takes over.
        let mut succeeded = std::pin::pin!(seen.until_succeeded());
        loop {
            let (mut again, mut edited) = (false, false);
            tokio::select! {
                _ = signals.terminate.recv() => break Stop::Terminate,
                _ = signals.interrupt.recv() => break Stop::Interrupt,
                () = seen.status.until_shutdown() => break Stop::Asked,
                pid = &mut succeeded => break Stop::Succeeded(pid),
                _ = signals.upgrade.recv() => itself.start_again(seen.succession.is_some(), &tasks),
                _ = signals.hangup.recv() => again = true,
                _ = signals.user.recv() => again = true,
                () = tick(&mut timed) => again = true,
                _ = look.tick() => {
                    ebb.look(&telemetry.live);
                    looks = looks.wrapping_add(1);
                    if looks.is_multiple_of(LOOKS_IN_TEN_MINUTES) {
                        fleet.forget_unused();
                    }
                    edited = file.as_mut().is_some_and(Watched::settled);
                }
            }
            if again {
                seen.reloading();
            }
            if let Some(file) = file.as_mut().filter(|_| again || edited) {
                let taken = tokio::select! {
                    taken = file.take(&mut fleet, &mut plan.globals) => taken,
                    _ = signals.terminate.recv() => break Stop::Terminate,
                    _ = signals.interrupt.recv() => break Stop::Interrupt,
                };
                seen.status.file_read(taken.as_ref().err().map(String::as_str));
                let result = if taken.is_ok() { "accepted" } else { "rejected" };
                telemetry.metrics.config.loads.with_label_values(&[result]).inc();
                seen.status.set_services(fleet.services());
                seen.offer(fleet.listeners());
            }
            if again {
                fleet.reload().await;
                seen.listening();
            } else {
                fleet.look_at_policies();
            }
        }
    };
    let grace = plan.globals.shutdown;
    let connections = fleet.connections();
    let successor = match stop {
        Stop::Succeeded(pid) => Some(pid),
        _ => None,
    };
    // The paths of Unix sockets are the successor's, if there is one.
    let services = fleet.stop_accepting(successor.is_some());
    seen.stopping(grace, successor);
    tracing::info!(connections, ?grace, "{}", stop.words());
    let cut = drain::drain(&services, grace, &mut signals, &seen.manager, &seen.status).await;
    tasks.cut();
    tasks.ended().await;
    if cut > 0 {
        tracing::warn!(connections = cut, "cut: they had not ended in time");
        return Ok(1);
    }
    Ok(0)
}

async fn tick(timed: &mut Option<tokio::time::Interval>) {
    match timed {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// The file of `adit proxy`, followed.
struct Watched {
    path: PathBuf,
    /// The state that was last read.
    seen: Stamp,
    /// The state at the last look, if it is another.
    changing: Stamp,
}

impl Watched {
    /// Whether it has changed and changes no more: who writes it in place is not read in the
    /// middle.
    fn settled(&mut self) -> bool {
        let now = stamp(&self.path);
        if now == self.seen {
            self.changing = None;
            return false;
        }
        std::mem::replace(&mut self.changing, now) == now
    }

    /// Takes the file if it is right and all of it can be opened, else keeps what was.
    ///
    /// # Errors
    /// What is wrong with it.
    async fn take(&mut self, fleet: &mut Fleet, globals: &mut Globals) -> Result<(), String> {
        self.seen = stamp(&self.path);
        let file = crate::identity::shown(&self.path);
        let refused = |error: String| {
            tracing::error!(%file, error, "configuration refused, the last good one stays");
            Err(error)
        };
        let read = match config::load_standalone(&self.path) {
            Ok(read) => read,
            Err(error) => return refused(error.to_string()),
        };
        let applied = timeout(OPEN_WITHIN, fleet.apply(read.services, read.globals.shutdown)).await;
        let late = |_| {
            let why = format!("not all services were ready within {OPEN_WITHIN:?}");
            Err(NotOpened { why, files: false })
        };
        let changes = match applied.unwrap_or_else(late) {
            Ok(changes) => changes,
            Err(error) => return refused(error.why),
        };
        let waiting = read.globals.lasting();
        let waiting: Vec<&str> = waiting
            .iter()
            .zip(globals.lasting())
            .filter_map(|(now, then)| (*now != then).then_some(now.0))
            .collect();
        if !waiting.is_empty() {
            let settings = waiting.join(", ");
            tracing::warn!(settings, "these settings take effect when adit is restarted");
        }
        globals.shutdown = read.globals.shutdown;
        tracing::info!(
            %file,
            added = changes.added.join(", "),
            changed = changes.changed.join(", "),
            removed = changes.removed.join(", "),
            "configuration read"
        );
        Ok(())
    }
}

async fn resolve(config: &ServiceConfig) -> Result<(), String> {
    for target in &config.targets {
        if let Address::Tcp { host, port } = target {
            let host = if host.is_empty() { "localhost" } else { host };
            let found = tokio::net::lookup_host((host, *port)).await;
            let found = found
                .map_err(|e| format!("target {target}: {e}; --skip-resolve starts without it"))?;
            if found.count() == 0 {
                return Err(format!("target {target}: the name has no address"));
            }
        }
    }
    Ok(())
}
