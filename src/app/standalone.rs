//! `adit server`, `adit client`: services until SIGTERM.

mod drain;
mod seen;
mod upgrade;
mod watchdog;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};

use self::{
    seen::{Seen, joined},
    upgrade::Itself,
};
use super::workers::Workers;
use crate::{
    lifecycle::Tasks,
    observe::{
        Telemetry,
        logging::{LogFormat, Logging},
    },
    standalone::{
        Address, Keeper, Listening, Predecessor, Service, ServiceConfig, Sockets,
        status::StatusConfig,
    },
    sys::descriptors,
};

/// What the process does.
#[derive(Debug)]
pub struct Plan {
    /// For all services.
    pub globals: Globals,
    /// At least one.
    pub services: Vec<ServiceConfig>,
    /// Whether the targets' names must resolve at start.
    pub resolve: bool,
}

/// For all services.
#[derive(Clone, Debug)]
pub struct Globals {
    /// How long connections may go on after SIGTERM.
    pub shutdown: Duration,
    /// Files are read anew every so often.
    pub timed_reload: Option<Duration>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Log lines go to syslog instead of stdout.
    pub syslog: bool,
    /// Data workers; one per core if not given.
    pub workers: Option<usize>,
    /// What operators see.
    pub status: StatusConfig,
    /// The socket at which processes take over from each other.
    pub takeover: Option<PathBuf>,
}

/// Runs until SIGTERM or SIGINT, then drains. The exit code: 0 if all connections ended in time.
///
/// # Errors
/// If it cannot start.
pub fn run(plan: Plan) -> Result<u8, String> {
    // First of all: it changes the environment, which no thread may read meanwhile.
    let named = descriptors::from_service_manager();
    let named = named.map_err(|e| format!("sockets from systemd: {e}"))?;
    let itself = Itself::now();
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    let format = plan.globals.log_format;
    let _logging = match plan.globals.syslog {
        true => Logging::start_syslog(format, &filter)?,
        false => Logging::start(format, &filter).map_err(|e| format!("RUST_LOG: {e}"))?,
    };
    crate::sys::process::harden();
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
    plan: Plan,
    workers: &Workers,
    mut sockets: Sockets,
    predecessor: Option<Predecessor>,
    itself: &Itself,
) -> Result<u8, String> {
    let mut signals = Signals::new().map_err(|e| e.to_string())?;
    let telemetry = Telemetry::new().map_err(|e| e.to_string())?;
    let tasks = Tasks::default();
    let mut seen = Seen::open(&plan, &telemetry, &mut sockets, &tasks)?;
    let mut services: Vec<(Arc<Service>, Listening)> = Vec::new();
    for config in plan.services {
        if plan.resolve {
            resolve(&config).await?;
        }
        let keeper = tokio::select! {
            keeper = Keeper::open(config.material.clone()) => keeper?,
            _ = signals.terminate.recv() => return Ok(0),
            _ = signals.interrupt.recv() => return Ok(0),
            () = seen.status.until_shutdown() => return Ok(0),
        };
        let following = Arc::clone(&keeper);
        tasks.spawn(async move { following.follow().await });
        let listening = sockets.open(&config.listen)?;
        let service = Service::new(config, keeper, telemetry.clone())?;
        services.push((service, listening));
    }
    for name in sockets.unused() {
        tracing::warn!(socket = name, "this socket was passed to us, and nothing listens on it");
    }
    drop(sockets);
    for (service, listening) in &services {
        service.start(listening, &workers.handles).await.map_err(|e| e.to_string())?;
        let config = &service.config;
        // Port 0 is whichever was free.
        let bound = listening.local_addr().map(|addr| addr.to_string());
        tracing::info!(
            service = config.name,
            role = config.role.as_str(),
            listen = bound.unwrap_or_else(|| config.listen.to_string()),
            targets = joined(&config.targets),
            certificate = service.keeper.current().source,
            "listening"
        );
    }
    seen.status.set_services(services.iter().map(|(s, _)| Arc::clone(s)).collect());
    seen.listening();
    seen.feed_watchdog(workers, &tasks);
    seen.succeed(predecessor, &services)?;
    // They have just been read.
    let timed = |every| tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    let mut timed = plan.globals.timed_reload.map(timed);
    let successor = {
        // One wait throughout: a reload does not disturb a process that takes over.
        let mut succeeded = std::pin::pin!(seen.until_succeeded());
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => break None,
                _ = signals.interrupt.recv() => break None,
                () = seen.status.until_shutdown() => break None,
                pid = &mut succeeded => break Some(pid),
                _ = signals.upgrade.recv() => itself.start_again(seen.succession.is_some(), &tasks),
                _ = signals.hangup.recv() => reload(&services, &seen).await,
                _ = signals.user.recv() => reload(&services, &seen).await,
                () = tick(&mut timed) => reload(&services, &seen).await,
            }
        }
    };
    let grace = plan.globals.shutdown;
    if successor.is_some() {
        // The paths are the successor's now.
        services.iter_mut().for_each(|(_, listening)| listening.keep_path());
    }
    seen.stopping(grace, successor);
    let open: usize = services.iter().map(|(s, _)| s.open()).sum();
    tracing::info!(connections = open, ?grace, "stopping: no new connections, draining");
    let mut kept = Vec::new();
    for (service, listening) in services {
        service.stop_accepting();
        drop(listening);
        kept.push(service);
    }
    let cut = drain::drain(&kept, grace, &mut signals, &seen.manager, &seen.status).await;
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

/// What is wrong changes nothing.
async fn reload(services: &[(Arc<Service>, Listening)], seen: &Seen) {
    seen.reloading();
    for (service, _) in services {
        let name = service.config.name.as_str();
        match service.keeper.reload().await {
            Ok(()) => tracing::info!(service = name, "reloaded"),
            Err(error) => {
                tracing::error!(service = name, error, "reload refused, what was read before stays")
            }
        }
    }
    seen.listening();
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
