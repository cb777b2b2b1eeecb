//! What operators see, over plain HTTP/1.1: admin on loopback, metrics and readiness on all
//! addresses. Bodies are built on the control thread; nothing here delays a connection.

mod listener;
mod views;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ::http::{Method, Request, StatusCode};
use bytes::Bytes;
use futures_util::stream::unfold;

use self::listener::EndpointListener;
use crate::{
    config::{AdminAddress, Settings},
    http::{Answer, Handler, Limits, Methods, Readers, Server, answer, json, query, stream, text},
    lifecycle::{Tasks, blocking},
    observe::{Refusal, Refused, conn::Notification, logging::Logging},
    roles::node::Node,
    spiffe_api::federation::Federation,
};
use views::{CertsView, ConfigDump};

/// What the endpoints show.
pub struct State {
    node: Arc<Node>,
    federation: Arc<Federation>,
    logging: Logging,
    readiness: Mutex<Readiness>,
    /// Whether the mesh file is what is in force.
    pub file: Refusal,
    /// The metrics as last written, and when that began.
    metrics: tokio::sync::Mutex<Option<(Instant, Bytes)>>,
}

#[derive(Default)]
struct Readiness {
    loaded: bool,
    draining: bool,
    pending: Vec<String>,
    unprotected: Vec<String>,
    /// It was ready once.
    started: bool,
}

impl State {
    /// Not ready yet.
    #[must_use]
    pub fn new(node: Arc<Node>, federation: Arc<Federation>, logging: Logging) -> Self {
        let (readiness, metrics) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { node, federation, logging, readiness, file: Refusal::default(), metrics }
    }

    /// The configuration is in force.
    pub fn set_loaded(&self) {
        self.ready(|r| r.loaded = true);
    }

    /// The process is stopping.
    pub fn set_draining(&self) {
        self.ready(|r| r.draining = true);
    }

    /// Pods that could not be started.
    pub fn set_pending(&self, pending: Vec<String>) {
        self.ready(|r| r.pending = pending);
    }

    /// Names the pods whose capture rules are not those that adit applied, and why.
    pub fn set_unprotected(&self, unprotected: Vec<String>) {
        self.ready(|r| r.unprotected = unprotected);
    }

    /// What is waited for, if the process is not ready. Told as the readiness endpoint tells it.
    ///
    /// Beside a source that is down all is well until an identity in use has nothing left. At the
    /// start all pods must have theirs; a pod that comes later and gets none is not held against
    /// the others.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let (waiting, started) = self.ready(|r| {
            let waiting = match (r.draining, r.loaded) {
                (true, _) => Some("draining".to_owned()),
                (_, false) => Some("configuration".to_owned()),
                _ => {
                    let all = [&r.pending[..], &r.unprotected[..]].concat();
                    (!all.is_empty()).then(|| all.join("; "))
                }
            };
            (waiting, r.started)
        });
        let without = || {
            let budget = self.node.svids.outage_budget();
            let without = if started { budget.lost } else { budget.without };
            Some(without.join("; ")).filter(|without| !without.is_empty())
        };
        let waiting = waiting.or_else(without);
        if waiting.is_none() {
            self.ready(|r| r.started = true);
        }
        waiting
    }

    fn ready<T>(&self, look: impl FnOnce(&mut Readiness) -> T) -> T {
        look(&mut self.readiness.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone, Copy)]
enum Endpoint {
    Admin,
    Metrics,
    Readiness,
}

/// Binds the three endpoints and serves them: `accepting` accepts, what is accepted goes on in
/// `tasks`.
///
/// # Errors
/// An address that cannot be bound.
pub async fn serve(
    state: &Arc<State>,
    settings: &Settings,
    accepting: &Tasks,
    tasks: &Tasks,
) -> io::Result<()> {
    let listeners = &state.node.listeners;
    let tcp = AdminAddress::Tcp;
    for (addr, endpoint, name) in [
        (settings.admin.clone(), Endpoint::Admin, "admin"),
        (tcp(settings.metrics), Endpoint::Metrics, "metrics"),
        (tcp(settings.readiness), Endpoint::Readiness, "readiness"),
    ] {
        let listener = EndpointListener::open(&addr, listeners)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("{name} endpoint on {addr}: {e}")))?;
        let readers = match endpoint {
            Endpoint::Admin => Readers::ByOwnName,
            Endpoint::Metrics | Endpoint::Readiness => Readers::Anyone,
        };
        let server = Server { name, limits: Limits::OPERATORS, readers, names: Vec::new() };
        let pages = Arc::new(Pages { state: Arc::clone(state), endpoint });
        let (listeners, conns) = (Arc::clone(listeners), tasks.child());
        accepting.spawn(async move {
            listeners.accepting().await;
            server.run(listener, pages, conns).await;
        });
    }
    Ok(())
}

/// The pages of one endpoint.
struct Pages {
    state: Arc<State>,
    endpoint: Endpoint,
}

impl Handler for Pages {
    fn methods(&self, path: &str) -> Methods {
        match (self.endpoint, path) {
            (Endpoint::Admin, "/certs/rotate" | "/federation/refresh") => Methods::Change,
            (Endpoint::Admin, "/logging") => Methods::ReadAndChange,
            _ => Methods::Read,
        }
    }

    async fn handle(&self, request: &Request<Bytes>) -> Answer {
        page(&self.state, self.endpoint, request).await
    }
}

async fn page(state: &Arc<State>, endpoint: Endpoint, request: &Request<Bytes>) -> Answer {
    let path = request.uri().path();
    match (endpoint, path) {
        (Endpoint::Readiness, "/healthz/ready") => readiness(state),
        (Endpoint::Metrics, "/metrics" | "/stats/prometheus") => metrics(state).await,
        (Endpoint::Admin, "/") => text(StatusCode::OK, INDEX),
        (Endpoint::Admin, "/config_dump") => json(
            StatusCode::OK,
            &ConfigDump::of(&state.node.mesh.load(), &state.node.svids, state.file.get()),
        ),
        (Endpoint::Admin, "/connections") => {
            json(StatusCode::OK, &state.node.telemetry.live.views())
        }
        (Endpoint::Admin, "/events") => events(state),
        (Endpoint::Admin, "/certs") => json(StatusCode::OK, &CertsView::of(&state.node.svids)),
        (Endpoint::Admin, "/certs/rotate") => rotate(state, request),
        (Endpoint::Admin, "/federation") => {
            json(StatusCode::OK, &serde_json::json!(state.federation.statuses()))
        }
        (Endpoint::Admin, "/federation/refresh") => refresh(state, request),
        (Endpoint::Admin, "/logging") => logging(state, request),
        _ => text(StatusCode::NOT_FOUND, "no such page; see /\n"),
    }
}

/// The last line for a client that a newer one is read for instead.
const REPLACED: &str = "{\"event\":\"replaced\",\"error\":\"closed in favour of a newer client: at \
                        most 8 at a time, 2 of one address\"}\n";

/// JSON lines, for as long as the client reads.
fn events(state: &State) -> Answer {
    let Some(subscription) = state.node.telemetry.live.events().subscribe() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many clients are already listening\n");
    };
    let lines = unfold(subscription, |mut subscription| async move {
        let line = match subscription.next().await? {
            Notification::Event(event) => serde_json::to_string(&*event).ok()?,
            Notification::Lost(count) => format!("{{\"event\":\"lost\",\"count\":{count}}}"),
        };
        Some((Bytes::from(line + "\n"), subscription))
    });
    stream("application/x-ndjson", lines, REPLACED)
}

/// Written once for all who asked before that began, and where nothing waits for it.
async fn metrics(state: &Arc<State>) -> Answer {
    let asked = Instant::now();
    let mut last = state.metrics.lock().await;
    let text = match &*last {
        Some((begun, text)) if *begun >= asked => text.clone(),
        _ => {
            let (begun, of) = (Instant::now(), Arc::clone(state));
            let Ok(text) = blocking(move || Bytes::from(exposition(&of))).await else {
                return text(StatusCode::INTERNAL_SERVER_ERROR, "no metrics\n");
            };
            *last = Some((begun, text.clone()));
            text
        }
    };
    drop(last);
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

fn exposition(state: &State) -> String {
    let telemetry = &state.node.telemetry;
    let tasks = state.node.workers.iter().map(|w| w.metrics().num_alive_tasks());
    telemetry.metrics.process.alive_tasks.set(i64::try_from(tasks.sum::<usize>()).unwrap_or(0));
    let lost = i64::try_from(state.logging.dropped_lines()).unwrap_or(i64::MAX);
    telemetry.metrics.process.log_lines_dropped.set(lost);
    telemetry.metrics.config.rejected_files.set(i64::from(state.file.get().is_some()));
    set_outage_budget(state);
    telemetry.metrics.render(&telemetry.live)
}

/// No identities, no budget: a gauge of 0 would say that all have run out.
fn set_outage_budget(state: &State) {
    let gauge = &state.node.telemetry.metrics.credentials.outage_budget;
    gauge.reset();
    if let Some(seconds) = state.node.svids.outage_budget().seconds {
        gauge.with_label_values(&[] as &[&str]).set(Duration::from_secs(seconds).as_secs_f64());
    }
}

const INDEX: &str = "adit admin\n\
  GET  /config_dump           the mesh in use, and whether the file was accepted\n\
  GET  /connections           open connections\n\
  GET  /events                events of connections from now on, as JSON lines\n\
  GET  /certs                 own SVIDs: source, expiry, next attempt, last error; outage budget\n\
  POST /certs/rotate?id=ID    renew one SVID now\n\
  GET  /federation            other trust domains' bundles: state, last error, next attempt\n\
  POST /federation/refresh?trustDomain=TD  ask for one now\n\
  GET  /logging               the log filter in force\n\
  POST /logging?level=FILTER  change it, in RUST_LOG's language\n";

fn readiness(state: &State) -> Answer {
    match state.waits_for() {
        None => {
            let refused = state.file.get().map(|Refused { since, error }| {
                let since = humantime::format_rfc3339_seconds(since);
                format!(
                    "the mesh file was rejected, the previous one is in use; rejected since \
                     {since}: {error}\n"
                )
            });
            text(StatusCode::OK, format!("ready\n{}", refused.unwrap_or_default()))
        }
        Some(what) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("not ready, pending: {what}\n"))
        }
    }
}

fn rotate(state: &State, request: &Request<Bytes>) -> Answer {
    let id = query(request, "id").and_then(|id| id.parse().ok());
    match id.map(|id| state.node.svids.rotate_now(&id)) {
        Some(true) => text(StatusCode::OK, "renewing\n"),
        Some(false) => text(StatusCode::NOT_FOUND, "not an identity of this node\n"),
        None => text(StatusCode::BAD_REQUEST, "?id= must be a SPIFFE ID\n"),
    }
}

fn refresh(state: &State, request: &Request<Bytes>) -> Answer {
    let trust_domain = query(request, "trustDomain").and_then(|td| td.parse().ok());
    match trust_domain.map(|td| state.federation.refresh_now(&td)) {
        Some(true) => text(StatusCode::OK, "asking\n"),
        Some(false) => text(StatusCode::NOT_FOUND, "the mesh file has no such trust domain\n"),
        None => text(StatusCode::BAD_REQUEST, "?trustDomain= must be a trust domain\n"),
    }
}

fn logging(state: &State, request: &Request<Bytes>) -> Answer {
    let Some(level) = query(request, "level").filter(|_| request.method() == Method::POST) else {
        return text(StatusCode::OK, format!("{}\n", state.logging.filter()));
    };
    match state.logging.set_filter(level) {
        Ok(()) => text(StatusCode::OK, format!("{}\n", state.logging.filter())),
        Err(e) => text(StatusCode::BAD_REQUEST, format!("{level:?}: {e}\n")),
    }
}
