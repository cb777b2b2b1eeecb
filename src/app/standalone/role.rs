//! Services in the loop that all processes have: see [`Role`].

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Interval, timeout};

use super::status_reporter::{StatusReporter, deaf};
use crate::{
    app::{
        begun::Stop,
        frame::{self, HandedOver, Next, Other, Reloaded, Role, Takeover},
        service_registry::{NotOpened, ServiceRegistry},
    },
    config::{self, Globals},
    identity::shown,
    lifecycle::{ServiceManager, Successor, Tasks, WatchedFile},
    observe::Telemetry,
};

/// How long a live edit may take to obtain what it names (a Workload API may be silent).
const OPEN_WITHIN: Duration = Duration::from_secs(15);

/// How long what is left may take after the connections.
const END_WITHIN: Duration = Duration::from_secs(5);

/// The services of a process, and what is seen of it.
pub(super) struct Services {
    pub(super) file: Option<WatchedFile>,
    pub(super) globals: Globals,
    /// When files are read again without being asked for it.
    pub(super) timed: Option<Interval>,
    pub(super) registry: ServiceRegistry,
    pub(super) seen: StatusReporter,
    pub(super) takeover: Takeover,
    /// What the process after this one keeps, as it says, once that has taken over.
    pub(super) successor: Option<Option<Vec<String>>>,
    pub(super) telemetry: Telemetry,
    pub(super) tasks: Tasks,
}

/// What such a process waits for.
pub(super) enum News {
    /// `POST /_shutdown`.
    Shutdown,
    /// The process after this one.
    Other(Other),
    /// Files are read again every so often.
    Timed,
}

impl Role for Services {
    type News = News;

    fn watched(&mut self) -> Option<&mut WatchedFile> {
        self.file.as_mut()
    }

    async fn reload(&mut self, asked: bool) -> Reloaded {
        let reloaded = self.take().await;
        if asked && reloaded != Reloaded::Changing {
            self.registry.reload().await;
        }
        reloaded
    }

    fn reloading(&mut self) {
        self.seen.reloading();
    }

    fn reloaded(&mut self) {
        self.seen.listening();
    }

    async fn news(&mut self) -> News {
        let Self { seen: StatusReporter { status, .. }, takeover, timed, .. } = self;
        tokio::select! {
            () = status.until_shutdown() => News::Shutdown,
            other = takeover.next() => News::Other(other),
            () = tick(timed) => News::Timed,
        }
    }

    async fn heed(&mut self, news: News, manager: &ServiceManager) -> anyhow::Result<Next> {
        Ok(match news {
            News::Shutdown => Next::Stop(Stop::Asked),
            News::Timed => Next::Reload,
            // The one before this one has been told already.
            News::Other(Other::Gone) => Next::Continue,
            News::Other(Other::Accepts(Successor { pid, keeps, .. })) => {
                self.successor = Some(keeps);
                pid.into_iter().for_each(|pid| manager.succeeded_by(pid));
                Next::Stop(Stop::Succeeded(pid))
            }
        })
    }

    fn forget_unused(&self) {
        self.registry.forget_unused();
    }

    fn telemetry(&self) -> Option<&Telemetry> {
        Some(&self.telemetry)
    }

    fn start_successor(&mut self) {
        self.takeover.start_successor();
    }

    fn now(&self) -> (String, Option<String>) {
        (self.seen.status.one_line(), None)
    }

    fn fault(&self) -> impl Fn() -> Option<String> + use<> {
        let status = Arc::clone(&self.seen.status);
        move || deaf(&status.services())
    }

    async fn stop(self, stop: Stop) -> frame::Draining {
        let Self { globals, registry, seen, mut takeover, successor, tasks, .. } = self;
        let succeeded = matches!(stop, Stop::Succeeded(_));
        let (connections, grace) = (registry.connections(), globals.shutdown);
        // The paths of Unix sockets are the successor's, if there is one, also where what it says
        // and SIGTERM meet.
        let handed_over = HandedOver::of(successor, takeover.close().await);
        let draining = registry.stop_accepting(&handed_over);
        seen.stopping(&handed_over, succeeded);
        let (status, services) = (Arc::clone(&seen.status), draining.services.clone());
        let at_once = Rc::new(Cell::new(0));
        let counted = Rc::clone(&at_once);
        frame::Draining {
            open: Some((connections, grace)),
            limit: grace + END_WITHIN,
            status: Box::new(move || status.one_line()),
            cut: Box::new(move || {
                let cut: usize = services.iter().map(|service| service.cut()).sum();
                counted.set(counted.get() + cut);
                let connections = counted.get();
                tracing::warn!(connections, "SIGINT while draining: closing connections now");
            }),
            ended: Box::pin(async move {
                // Whole: what follows credentials, bans and policies runs until all have ended.
                let draining = draining;
                let all = draining.services.iter().map(|service| service.drain(grace));
                let cut = join_all(all).await.into_iter().sum::<usize>() + at_once.get();
                let cut = cut + draining.cut_of_leaving().await;
                tasks.cut();
                tasks.ended().await;
                drop(seen);
                cut
            }),
        }
    }
}

impl Services {
    /// Takes the file if it is right and all of it can be opened, else keeps what was.
    async fn take(&mut self) -> Reloaded {
        let Self { file: Some(watched), registry, globals, seen, takeover, telemetry, .. } = self
        else {
            return Reloaded::Unchanged;
        };
        let Some(path) = watched.paths().first().cloned() else { return Reloaded::Unchanged };
        let file = shown(&path);
        let taken = match watched.read_beside(move || config::load_standalone(&path)).await {
            Ok(Some(Ok(read))) => apply(read, &file, registry, globals).await,
            Ok(Some(Err(error))) => Err(error.to_string()),
            Ok(None) => return Reloaded::Changing,
            Err(late) => Err(late.to_string()),
        };
        seen.status.file_read(taken.as_ref().err().map(String::as_str));
        let result = if taken.is_ok() { "accepted" } else { "rejected" };
        telemetry.metrics.config.loads.with_label_values(&[result]).inc();
        if taken.is_ok() {
            telemetry.metrics.config.loaded_now();
        }
        seen.status.set_services(registry.services());
        takeover.offer(seen.offered(registry.listeners()));
        match taken {
            Ok(after_restart) => Reloaded::Applied { after_restart },
            Err(error) => Reloaded::Refused { file, error },
        }
    }
}

/// Exchanges the services for those of the file: the settings that take effect after a restart.
async fn apply(
    read: config::StandaloneFile,
    file: &str,
    registry: &mut ServiceRegistry,
    globals: &mut Globals,
) -> Result<Vec<String>, String> {
    let applied = timeout(OPEN_WITHIN, registry.apply(read.services, read.globals.shutdown)).await;
    let late = |_| {
        let why = format!("not all services were ready within {OPEN_WITHIN:?}");
        Err(NotOpened { why, files: false })
    };
    let changes = applied.unwrap_or_else(late).map_err(|error| error.why)?;
    globals.shutdown = read.globals.shutdown;
    tracing::info!(
        %file,
        added = changes.added.join(", "),
        changed = changes.changed.join(", "),
        removed = changes.removed.join(", "),
        "configuration reloaded"
    );
    let keys = globals.restart_keys(&read.globals).into_iter();
    Ok(keys.map(|key| read.lines.after_restart(file, key)).collect())
}

async fn tick(timed: &mut Option<Interval>) {
    match timed {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}
