//! What operators see, over plain HTTP/1.1: admin on loopback, metrics and readiness on all
//! addresses. Bodies are built on the control thread; nothing here delays a connection.

mod door;

use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use tokio_util::either::Either;

use self::door::{Caller, Door};
use crate::{
    ca::federation::Federation,
    config::{AdminAddress, Settings},
    lifecycle::{EndpointPlaces, Tasks, aside},
    node::Node,
    observe::{Refusal, Refused, logging::Logging},
    rpc::http::{self, Answer, answer, text},
    tls::record::{Choice, choices},
};

/// How many connections each endpoint has, and of one source: beyond it the oldest is closed.
const PLACES: usize = 64;
const OF_ONE: usize = 32;
/// How long a connection may last, with all its requests.
const WHOLE: Duration = Duration::from_secs(30);

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
        let door = Door::open(&addr, listeners)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("{name} endpoint on {addr}: {e}")))?;
        let (state, conns) = (Arc::clone(state), tasks.child());
        let listeners = Arc::clone(listeners);
        accepting.spawn(async move {
            listeners.accepting().await;
            accept(door, state, endpoint, conns).await;
        });
    }
    Ok(())
}

async fn accept(door: Door, state: Arc<State>, endpoint: Endpoint, conns: Tasks) {
    let places = EndpointPlaces::new(PLACES, OF_ONE);
    loop {
        let Caller { socket, source, bound } = match door.accept().await {
            Ok(Some(caller)) => caller,
            Ok(None) => continue,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let fd = match &socket {
            Either::Left(socket) => socket.as_fd(),
            Either::Right(socket) => socket.as_fd(),
        };
        let Some(place) = places.take(&fd, source) else { continue };
        let state = Arc::clone(&state);
        conns.spawn(async move {
            let route = |request| {
                let state = Arc::clone(&state);
                async move { route(&state, endpoint, bound, &request).await }
            };
            http::serve(socket, WHOLE, place.given_up(), route).await;
        });
    }
}

async fn route(
    state: &Arc<State>,
    endpoint: Endpoint,
    bound: SocketAddr,
    request: &Request<Incoming>,
) -> Answer {
    let path = request.uri().path();
    let admin = matches!(endpoint, Endpoint::Admin);
    let acts = admin && ["/certs/rotate", "/federation/refresh", "/logging"].contains(&path);
    let refused = http::refuse_method(request.method(), acts, !acts || path == "/logging");
    let foreign = || http::refuse_foreign(request.uri(), request.headers(), bound);
    if let Some(refused) = refused.or_else(|| admin.then(foreign).flatten()) {
        return refused;
    }
    match (endpoint, path) {
        (Endpoint::Readiness, "/healthz/ready") => readiness(state),
        (Endpoint::Metrics, "/metrics" | "/stats/prometheus") => metrics(state).await,
        (Endpoint::Admin, "/") => text(StatusCode::OK, INDEX.into()),
        (Endpoint::Admin, "/config_dump") => {
            let mut dump = state.node.mesh.load().dump();
            dump["certificates"] = json!(state.node.svids.statuses());
            dump["config"] = config(state);
            let aead = choices().iter().map(Choice::to_json).collect::<Vec<_>>();
            dump["tls"] = json!({ "aead": aead });
            dump["version"] = json!({ "version": env!("CARGO_PKG_VERSION") });
            json_answer(&dump)
        }
        (Endpoint::Admin, "/connections") => json_answer(&state.node.telemetry.live.to_json()),
        (Endpoint::Admin, "/certs") => json_answer(&certs(state)),
        (Endpoint::Admin, "/certs/rotate") => rotate(state, request),
        (Endpoint::Admin, "/federation") => json_answer(&json!(state.federation.statuses())),
        (Endpoint::Admin, "/federation/refresh") => refresh(state, request),
        (Endpoint::Admin, "/logging") => logging(state, request),
        _ => text(StatusCode::NOT_FOUND, "no such page; see /\n".into()),
    }
}

/// Written once for all who asked before that began, and where nothing waits for it.
async fn metrics(state: &Arc<State>) -> Answer {
    let asked = Instant::now();
    let mut last = state.metrics.lock().await;
    let text = match &*last {
        Some((begun, text)) if *begun >= asked => text.clone(),
        _ => {
            let (begun, of) = (Instant::now(), Arc::clone(state));
            let Ok(text) = aside(move || Bytes::from(exposition(&of))).await else {
                return text(StatusCode::INTERNAL_SERVER_ERROR, "no metrics\n".into());
            };
            *last = Some((begun, text.clone()));
            text
        }
    };
    drop(last);
    let mut answer = Response::new(Full::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
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

/// Whether what is on disk is what is in force.
fn config(state: &State) -> serde_json::Value {
    match state.file.get() {
        None => json!({ "state": "current" }),
        Some(Refused { since, error }) => json!({
            "state": "refused",
            "since": humantime::format_rfc3339_seconds(since).to_string(),
            "error": error,
        }),
    }
}

fn certs(state: &State) -> serde_json::Value {
    let svids = &state.node.svids;
    let budget = svids.outage_budget();
    json!({
        "source": svids.source(),
        "outageBudgetSeconds": budget.seconds,
        "firstToExpire": budget.first.map(|id| id.to_string()),
        "withoutValidSvid": budget.without,
        "certificates": svids.statuses(),
    })
}

const INDEX: &str = "adit admin\n\
  GET  /config_dump           the mesh in force, and whether it is what the file says\n\
  GET  /connections           open connections\n\
  GET  /certs                 own SVIDs: source, expiry, next attempt, last error; the outage budget\n\
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
                format!("the mesh file is not what runs; refused since {since}: {error}\n")
            });
            text(StatusCode::OK, format!("ready\n{}", refused.unwrap_or_default()))
        }
        Some(what) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("not ready, pending: {what}\n"))
        }
    }
}

fn query<'a>(request: &'a Request<Incoming>, key: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key).map(|(_, v)| v)
}

fn rotate(state: &State, request: &Request<Incoming>) -> Answer {
    let id = query(request, "id").and_then(|id| id.parse().ok());
    match id.map(|id| state.node.svids.rotate_now(&id)) {
        Some(true) => text(StatusCode::OK, "renewing\n".into()),
        Some(false) => text(StatusCode::NOT_FOUND, "not an identity of this node\n".into()),
        None => text(StatusCode::BAD_REQUEST, "?id= must be a SPIFFE ID\n".into()),
    }
}

fn refresh(state: &State, request: &Request<Incoming>) -> Answer {
    let trust_domain = query(request, "trustDomain").and_then(|td| td.parse().ok());
    match trust_domain.map(|td| state.federation.refresh_now(&td)) {
        Some(true) => text(StatusCode::OK, "asking\n".into()),
        Some(false) => text(StatusCode::NOT_FOUND, "the mesh file names no such\n".into()),
        None => text(StatusCode::BAD_REQUEST, "?trustDomain= must be a trust domain\n".into()),
    }
}

fn logging(state: &State, request: &Request<Incoming>) -> Answer {
    let Some(level) = query(request, "level").filter(|_| request.method() == Method::POST) else {
        return text(StatusCode::OK, format!("{}\n", state.logging.filter()));
    };
    match state.logging.set_filter(level) {
        Ok(()) => text(StatusCode::OK, format!("{}\n", state.logging.filter())),
        Err(e) => text(StatusCode::BAD_REQUEST, format!("{level:?}: {e}\n")),
    }
}

fn json_answer(value: &serde_json::Value) -> Answer {
    answer(StatusCode::OK, "application/json", format!("{value:#}\n"))
}
