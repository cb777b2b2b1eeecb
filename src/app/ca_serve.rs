//! `adit ca serve`: the embedded CA for other nodes and other proxies, until SIGTERM.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ::http::{Request, StatusCode};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::{net::TcpListener, runtime::Handle};

use super::{
    begun::Stop,
    frame::{Draining, Frame, Next, Reloaded, Role},
    needs::confine_ca,
    run::RunError,
};
use crate::{
    authority::{
        self, EmbeddedCa,
        serve::{Metrics, authorize::Pod},
    },
    config::{CaServerConfig, LoadError, load_ca_server, load_pods},
    http::{self, Answer, Handler, Limits, Methods, Readers, Server},
    lifecycle::{ServiceManager, Tasks, WatchedFile},
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
    let config = load_ca_server(file)?;
    let confined = confine_ca(&config).map_err(anyhow::Error::msg)?;
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
    Ok(runtime.block_on(serve(config))?)
}

async fn serve(config: CaServerConfig) -> anyhow::Result<()> {
    let frame = Frame::new(vec![Handle::current()])?;
    let CaServerConfig { dir, server, pods, metrics: metrics_at, .. } = config;
    let trust_domain = server.rules.trust_domain.clone();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        %trust_domain,
        dir = %dir.display(),
        "adit ca serve starts: it issues SVIDs; SIGTERM or Ctrl-C (SIGINT) ends it at once"
    );
    let ca = Arc::new(EmbeddedCa::open(&dir, &trust_domain, server.svid_lifetime)?);
    ca.keep_fresh();
    let tasks = Tasks::default();
    let listed = Arc::clone(&server.attestors.pods);
    if let Some(file) = pods.clone() {
        // From here on a bad edit changes nothing.
        let watched = WatchedFile::new(&file);
        listed.store(Arc::new(load_pods(&file)?));
        tasks.spawn(watch_pods(file, watched, Arc::clone(&listed)));
    }
    let metrics = Arc::new(Metrics::new()?);
    let at = authority::serve::serve(&ca, server, &metrics, &tasks).await?;
    if let Some(addr) = metrics_at {
        let listener = TcpListener::bind(addr).await;
        let listener = listener.with_context(|| format!("metrics endpoint on {addr}"))?;
        tracing::info!(address = %listener.local_addr()?, "serving metrics");
        tasks.spawn(METRICS.run(listener, Arc::new(Pages(metrics)), tasks.clone()));
    }
    tracing::info!(target: "ca", address = %at, %trust_domain, "serving");
    let status = format!("issues SVIDs of {trust_domain} on {at}");
    frame.run(Authority { pods, listed, status, tasks }).await.map(drop)
}

/// The CA in the loop that all processes have: see [`Role`].
struct Authority {
    /// The file that lists the pods of the cluster.
    pods: Option<PathBuf>,
    listed: Arc<ArcSwap<Vec<Pod>>>,
    /// What it does, for people.
    status: String,
    tasks: Tasks,
}

impl Role for Authority {
    type News = Infallible;

    fn watched(&mut self) -> Option<&mut WatchedFile> {
        None
    }

    async fn reload(&mut self, _asked: bool) -> Reloaded {
        self.pods.iter().for_each(|file| take_pods(load_pods(file), &self.listed));
        tracing::info!(target: "ca", "the pods file is read; other settings take effect at a restart");
        Reloaded::Unchanged
    }

    async fn news(&mut self) -> Infallible {
        std::future::pending().await
    }

    async fn heed(&mut self, news: Infallible, _manager: &ServiceManager) -> anyhow::Result<Next> {
        match news {}
    }

    fn start_successor(&mut self) {
        tracing::warn!(target: "ca", "SIGUSR2: the CA is not handed over to a successor; nothing is done");
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
            // Whoever is cut asks again; nothing was promised that is not on disk.
            ended: Box::pin(async move {
                self.tasks.cut();
                self.tasks.ended().await;
                0
            }),
        }
    }
}

/// Takes the pods as the file lists them; a file that is not right changes nothing.
async fn watch_pods(file: PathBuf, mut watched: WatchedFile, pods: Arc<ArcSwap<Vec<Pod>>>) {
    let mut look = tokio::time::interval(Duration::from_millis(200));
    loop {
        look.tick().await;
        if !watched.has_settled() {
            continue;
        }
        if let Some(read) = watched.read(|| load_pods(&file)) {
            take_pods(read, &pods);
        }
    }
}

fn take_pods(read: Result<Vec<Pod>, LoadError>, pods: &ArcSwap<Vec<Pod>>) {
    match read {
        Ok(new) => {
            tracing::debug!(target: "ca", pods = new.len(), "pods read");
            pods.store(Arc::new(new));
        }
        Err(error) => {
            tracing::error!(target: "ca", %error, "pods not read, the last good ones stay");
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
