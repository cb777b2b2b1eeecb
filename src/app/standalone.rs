//! `adit server`, `adit client`, `adit proxy`: services until SIGTERM.

mod drain;
mod needs;
mod plan;
mod status_reporter;

use std::time::Duration;

use tokio::{runtime::Builder, time::timeout};

pub use self::plan::Plan;
use self::status_reporter::StatusReporter;
use super::{
    begun::{ENDS, Stop},
    memory_trimmer::MemoryTrimmer,
    process::{
        self_exec::SelfExec,
        signals::{Asked, Signals},
    },
    service_registry::{NotOpened, ServiceRegistry},
    workers::Workers,
};
use crate::{
    config::{self, Globals},
    lifecycle::{HandoffClient, Tasks, WatchedFile},
    observe::{Telemetry, logging::Logging},
    standalone::{Address, ServiceConfig, Sockets},
    sys::{descriptors, ktls},
    tls::record,
};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOKS_IN_TEN_MINUTES: u32 = 1200;
/// How long a live edit may take to obtain what it names (a Workload API may be silent).
const OPEN_WITHIN: Duration = Duration::from_secs(15);

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
    let self_exec = SelfExec::now();
    // Before it is confined: the kernel is asked over loopback.
    let kernel_tls = ktls::probe();
    let confined = needs::confine(&plan)?;
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
    record::choose(plan.globals.aead)?;
    let found = plan.globals.takeover.as_deref().map(|path| {
        let shown = || crate::identity::shown(path);
        HandoffClient::find(path).map_err(|e| format!("take over from {}: {e}", shown()))
    });
    let found = found.transpose()?.flatten();
    let (predecessor, inherited) = found.unzip();
    let sockets = Sockets::new(named, inherited.unwrap_or_default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = Workers::start(plan.globals.workers.unwrap_or(cores));
    let workers = workers.map_err(|e| e.to_string())?;
    let control = Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let ran = control.block_on(serve(plan, &workers, sockets, predecessor, &self_exec));
    // A file that is still being read keeps nothing from ending.
    control.shutdown_background();
    drop(workers);
    ran
}

async fn serve(
    mut plan: Plan,
    workers: &Workers,
    mut sockets: Sockets,
    predecessor: Option<HandoffClient>,
    self_exec: &SelfExec,
) -> Result<u8, StartError> {
    let mut signals = Signals::new().map_err(|e| e.to_string())?;
    let telemetry = Telemetry::new().map_err(|e| e.to_string())?;
    let tasks = Tasks::default();
    let mut seen = StatusReporter::open(&plan, &telemetry, &mut sockets, &tasks)?;
    let services = std::mem::take(&mut plan.services);
    if plan.resolve {
        for service in &services {
            resolve(service).await?;
        }
    }
    let mut fleet = ServiceRegistry::new(telemetry.clone(), workers.handles.clone(), sockets);
    tokio::select! {
        applied = fleet.apply(services, Duration::ZERO) => drop(applied?),
        _ = signals.stop() => return Ok(0),
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
    let (mut ebb, mut looks) = (MemoryTrimmer::default(), 0_u32);
    let mut file = plan.file;
    let stop = {
        // One wait throughout: a reload does not disturb a process that takes over.
        let mut succeeded = std::pin::pin!(seen.until_succeeded());
        loop {
            let (mut again, mut edited) = (false, false);
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Stop(why) => break why,
                    Asked::Reload => again = true,
                    Asked::Upgrade => self_exec.start_again(seen.handoff.is_some(), &tasks),
                },
                () = seen.status.until_shutdown() => break Stop::Asked,
                pid = &mut succeeded => break Stop::Succeeded(pid),
                () = tick(&mut timed) => again = true,
                _ = look.tick() => {
                    ebb.look(&telemetry.live);
                    looks = looks.wrapping_add(1);
                    if looks.is_multiple_of(LOOKS_IN_TEN_MINUTES) {
                        fleet.forget_unused();
                    }
                    edited = file.as_mut().is_some_and(WatchedFile::has_settled);
                }
            }
            if again {
                seen.reloading();
            }
            if let Some(file) = file.as_mut().filter(|_| again || edited) {
                let taken = tokio::select! {
                    taken = take(file, &mut fleet, &mut plan.globals) => taken,
                    why = signals.stop() => break why,
                };
                if let Some(taken) = taken {
                    seen.status.file_read(taken.as_ref().err().map(String::as_str));
                    let result = if taken.is_ok() { "accepted" } else { "rejected" };
                    telemetry.metrics.config.loads.with_label_values(&[result]).inc();
                    seen.status.set_services(fleet.services());
                    seen.offer(fleet.listeners());
                }
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
    let draining = fleet.stop_accepting(successor.is_some());
    seen.stopping(grace, successor);
    tracing::info!(connections, ?grace, "{}", stop.words());
    let cut =
        drain::drain(&draining.services, grace, &mut signals, &seen.manager, &seen.status).await;
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

/// Takes the file if it is right and all of it can be opened, else keeps what was; `Err` says what
/// is wrong with it. `None` if it was written while it was read: a later look takes it.
async fn take(
    watched: &mut WatchedFile,
    fleet: &mut ServiceRegistry,
    globals: &mut Globals,
) -> Option<Result<(), String>> {
    let path = watched.paths().first()?.clone();
    let file = crate::identity::shown(&path);
    let refused = |error: String| {
        tracing::error!(%file, error, "configuration refused, the last good one stays");
        Some(Err(error))
    };
    let read = match watched.read(|| config::load_standalone(&path))? {
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
    for key in globals.restart_keys(&read.globals) {
        tracing::warn!("{}", read.lines.after_restart(&file, key));
    }
    globals.shutdown = read.globals.shutdown;
    tracing::info!(
        %file,
        added = changes.added.join(", "),
        changed = changes.changed.join(", "),
        removed = changes.removed.join(", "),
        "configuration read"
    );
    Some(Ok(()))
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
