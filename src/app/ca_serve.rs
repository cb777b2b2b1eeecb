//! `adit ca serve`: the embedded CA for other nodes and other proxies, until SIGTERM.

mod pods;

use std::{path::Path, sync::Arc, time::Duration};

use ::http::{Request, StatusCode};
use anyhow::anyhow;
use bytes::Bytes;
use tokio::{net::TcpListener, runtime::Handle};

use self::pods::{PodsFile, PodsNews};
use super::{
    begun::Stop,
    frame::{Draining, Frame, Next, Reloaded, Role},
    needs::confine_ca,
    run::RunError,
};
use crate::{
    authority::{
        self, EmbeddedCa,
        serve::{Metrics, Pods, Running},
    },
    config::{CaServerConfig, load_ca_server},
    http::{self, Answer, Handler, Limits, Methods, Readers, Server},
    identity::shown,
    lifecycle::{ServiceManager, Tasks, WatchedFile},
    net::cannot_listen,
    observe::logging::Logging,
};

/// How long an end may take.
const END_WITHIN: Duration = Duration::from_secs(5);

const METRICS: Server = Server {
    name: "metrics",
    limits: Limits::OPERATORS,
    readers: Readers::Anyone,
    names: Vec::new(),
};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start.
pub fn ca_serve(file: &Path) -> Result<(), RunError> {
    // Before it is read: an edit in between is then seen as one.
    let watched = WatchedFile::new(file);
    let config = load_ca_server(file)?;
    let confined = confine_ca(file, &config).map_err(anyhow::Error::msg)?;
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    let _logging =
        Logging::start(config.log_format, &filter).map_err(|e| anyhow::anyhow!("RUST_LOG: {e}"))?;
    crate::sys::process::harden();
    confined.log();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).min(4))
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let served = runtime.block_on(serve(watched, config));
    // A file that is still being read keeps nothing from ending.
    runtime.shutdown_background();
    Ok(served?)
}

async fn serve(file: WatchedFile, config: CaServerConfig) -> anyhow::Result<()> {
    let frame = Frame::new(vec![Handle::current()])?;
    let CaServerConfig { dir, server, pods, metrics: metrics_at, .. } = &config;
    let trust_domain = &server.rules.trust_domain;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        %trust_domain,
        dir = %dir.display(),
        "adit ca serve starts; SIGTERM or Ctrl-C (SIGINT) stops it at once"
    );
    let ca = Arc::new(EmbeddedCa::open(dir, trust_domain, server.svid_lifetime)?);
    ca.keep_fresh();
    let tasks = Tasks::default();
    let listed = Pods::default();
    let pods = pods.clone().map(|pods| PodsFile::open(pods, &listed)).transpose()?;
    let metrics = Arc::new(Metrics::new()?);
    let running = authority::serve::serve(&ca, server.clone(), &listed, &metrics, &tasks).await?;
    let at = running.addr;
    if let Some(addr) = metrics_at {
        let listener = TcpListener::bind(addr).await;
        let failed = |e| anyhow!("metrics endpoint: {}", cannot_listen(addr, "`metrics`", &e));
        let listener = listener.map_err(failed)?;
        tracing::info!(address = %listener.local_addr()?, "serving metrics");
        tasks.spawn(METRICS.run(listener, Arc::new(Pages(metrics)), tasks.clone()));
    }
    tracing::info!(target: "ca", address = %at, %trust_domain, "serving the CA");
    let status = format!("issuing SVIDs of {trust_domain} on {at}");
    frame.run(Authority { file, config, server: running, pods, status, tasks }).await.map(drop)
}

/// The CA in the loop that all processes have: see [`Role`].
struct Authority {
    /// Its own file.
    file: WatchedFile,
    /// What that said at the start.
    config: CaServerConfig,
    server: Running,
    /// The file that lists the pods of the cluster.
    pods: Option<PodsFile>,
    /// What it does, for people.
    status: String,
    tasks: Tasks,
}

impl Role for Authority {
    /// Of the file with the pods.
    type News = PodsNews;

    fn watched(&mut self) -> Option<&mut WatchedFile> {
        Some(&mut self.file)
    }

    async fn reload(&mut self, asked: bool) -> Reloaded {
        let Some(path) = self.file.paths().first().cloned() else { return Reloaded::Unchanged };
        let file = shown(&path);
        let read = self.file.read_beside(move || load_ca_server(&path)).await;
        if asked && !matches!(read, Ok(None)) {
            self.pods.iter_mut().for_each(PodsFile::ask);
        }
        let now = match read {
            Ok(Some(Ok(now))) => now,
            Ok(Some(Err(error))) => return Reloaded::Refused { file, error: error.to_string() },
            Ok(None) => return Reloaded::Changing,
            Err(late) => return Reloaded::Refused { file, error: late.to_string() },
        };
        self.server.take(&now.server);
        tracing::info!(target: "ca", file, "configuration reloaded");
        let keys = self.config.restart_keys(&now).into_iter();
        Reloaded::Applied {
            after_restart: keys.map(|key| now.lines.after_restart(&file, key)).collect(),
        }
    }

    async fn news(&mut self) -> PodsNews {
        match &mut self.pods {
            Some(pods) => pods.news().await,
            None => std::future::pending().await,
        }
    }

    async fn heed(&mut self, news: PodsNews, _manager: &ServiceManager) -> anyhow::Result<Next> {
        if let Some(pods) = &mut self.pods {
            pods.heed(news);
        }
        Ok(Next::Continue)
    }

    fn is_settled(&self) -> bool {
        self.pods.as_ref().is_none_or(PodsFile::is_settled)
    }

    fn start_successor(&mut self) {
        tracing::warn!(target: "ca", "SIGUSR2 ignored: adit ca serve has no hot restart");
    }

    fn now(&self) -> (String, Option<String>) {
        (self.status.clone(), None)
    }

    fn fault(&self) -> impl Fn() -> Option<String> + use<> {
        || None
    }

    async fn stop(self, _stop: Stop) -> Draining {
        Draining {
            open: None,
            limit: END_WITHIN,
            status: Box::new(|| "stops".to_owned()),
            cut: Box::new(|| {}),
            // A caller whose connection is closed retries; no SVID was promised that is not on
            // disk.
            ended: Box::pin(async move {
                self.tasks.cut();
                self.tasks.ended().await;
                0
            }),
        }
    }
}

/// Metrics and readiness of the CA.
struct Pages(Arc<Metrics>);

impl Handler for Pages {
    fn methods(&self, _path: &str) -> Methods {
        Methods::Read
    }

    async fn handle(&self, request: &Request<Bytes>) -> Answer {
        match request.uri().path() {
            "/metrics" | "/stats/prometheus" => http::text(StatusCode::OK, self.0.render()),
            "/healthz/ready" => http::text(StatusCode::OK, "ready\n"),
            _ => http::text(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }
}
