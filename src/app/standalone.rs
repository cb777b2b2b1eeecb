//! `adit server`, `adit client`, `adit proxy`: services until SIGTERM.

mod needs;
mod plan;
mod role;
mod status_reporter;

use std::time::Duration;

use tokio::runtime::Builder;

pub use self::plan::Plan;
use self::{role::Services, status_reporter::StatusReporter};
use super::{
    begun::ENDS,
    frame::{Frame, Takeover},
    process::self_exec::SelfExec,
    service_registry::{NotOpened, ServiceRegistry},
    workers::Workers,
};
use crate::{
    lifecycle::Tasks,
    net::{Address, Sockets},
    observe::{Telemetry, logging::Logging},
    roles::standalone::ServiceConfig,
    sys::{descriptors, ktls},
    tls::record,
};

/// Why a process ends that was to take over.
const LATE: &str = "the services were not ready in time, so the previous process continues";

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
        Ok(found) => {
            tracing::info!(
                tls12 = found.tls12,
                tls13 = found.tls13,
                "the kernel encrypts TLS records"
            )
        }
        Err(why) => tracing::debug!(why, "the kernel does not encrypt TLS records"),
    }
    record::choose(plan.globals.aead)?;
    let takeover = Takeover::find(plan.globals.takeover.as_deref(), self_exec);
    let (takeover, inherited) = takeover.map_err(|e| format!("{e:#}"))?;
    let sockets = Sockets::new(named, inherited.unwrap_or_default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = Workers::start(plan.globals.workers.unwrap_or(cores));
    let workers = workers.map_err(|e| e.to_string())?;
    let control = Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let ran = control.block_on(serve(plan, &workers, sockets, takeover));
    // A file that is still being read keeps nothing from ending.
    control.shutdown_background();
    drop(workers);
    ran
}

async fn serve(
    mut plan: Plan,
    workers: &Workers,
    mut sockets: Sockets,
    mut takeover: Takeover,
) -> Result<u8, StartError> {
    let mut frame = Frame::new(workers.handles.clone()).map_err(|e| e.to_string())?;
    let telemetry = Telemetry::new().map_err(|e| e.to_string())?;
    let tasks = Tasks::default();
    takeover.begin().map_err(|e| format!("{e:#}"))?;
    let seen = StatusReporter::open(&plan, &telemetry, &mut sockets, &tasks)?;
    let services = std::mem::take(&mut plan.services);
    if plan.resolve {
        for service in &services {
            resolve(service).await?;
        }
    }
    let mut registry = ServiceRegistry::new(telemetry.clone(), workers.handles.clone(), sockets);
    tokio::select! {
        applied = registry.apply(services, Duration::ZERO) => drop(applied?),
        _ = frame.signals.stop() => return Ok(0),
        () = seen.status.until_shutdown() => return Ok(0),
        () = takeover.late() => return Err(LATE.to_owned().into()),
    }
    registry.drop_unused_sockets();
    telemetry.metrics.config.loaded_now();
    seen.status.set_services(registry.services());
    seen.listening();
    seen.take_over(&mut takeover, registry.listeners()).await?;
    // They have just been read.
    let timed = |every| tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    let timed = plan.globals.timed_reload.map(timed);
    let Plan { file, globals, .. } = plan;
    let services = Services {
        file,
        globals,
        timed,
        registry,
        seen,
        takeover,
        successor: None,
        telemetry,
        tasks,
    };
    let cut = frame.run(services).await.map_err(|e| format!("{e:#}"))?;
    Ok(u8::from(cut > 0))
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
