//! What operators see, over plain HTTP/1.1: admin on loopback, metrics and readiness on all
//! addresses. Bodies are built on the control thread; nothing here delays a connection.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    ca::federation::Federation, config::Settings, lifecycle::Tasks, node::Node,
    observe::logging::Logging,
};

/// What the endpoints show.
pub struct State {
    node: Arc<Node>,
    federation: Arc<Federation>,
    logging: Logging,
    readiness: Mutex<Readiness>,
}

#[derive(Default)]
struct Readiness {
    loaded: bool,
    draining: bool,
    pending: Vec<String>,
    /// It was ready once.
    started: bool,
}

impl State {
    /// Not ready yet.
    #[must_use]
    pub fn new(node: Arc<Node>, federation: Arc<Federation>, logging: Logging) -> Self {
        Self { node, federation, logging, readiness: Mutex::default() }
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

    /// Whether any pod could not be started.
    #[must_use]
    pub fn pending(&self) -> bool {
        self.ready(|r| !r.pending.is_empty())
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

/// Binds the three endpoints and serves them in `tasks`.
///
/// # Errors
/// An address that cannot be bound.
pub async fn serve(state: &Arc<State>, settings: &Settings, tasks: &Tasks) -> io::Result<()> {
    for (addr, endpoint, name) in [
        (settings.admin, Endpoint::Admin, "admin"),
        (settings.metrics, Endpoint::Metrics, "metrics"),
        (settings.readiness, Endpoint::Readiness, "readiness"),
    ] {
        let listener = bind(addr)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("{name} endpoint on {addr}: {e}")))?;
        let (state, conns) = (Arc::clone(state), tasks.child());
        tasks.spawn(async move { accept(listener, state, endpoint, conns).await });
    }
    Ok(())
}

async fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(addr).await {
        Err(_) if addr.ip() == std::net::Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind(("0.0.0.0", addr.port())).await
        }
        bound => bound,
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, endpoint: Endpoint, conns: Tasks) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let state = Arc::clone(&state);
        conns.spawn(async move {
            let service = service_fn(|request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(route(&state, endpoint, &request)) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(2))
                .max_buf_size(8192);
            // A client that goes away in the middle concerns nobody.
            let _ = http.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

type Answer = Response<Full<Bytes>>;

fn route(state: &State, endpoint: Endpoint, request: &Request<Incoming>) -> Answer {
    match (endpoint, request.uri().path()) {
        (Endpoint::Readiness, "/healthz/ready") => readiness(state),
        (Endpoint::Metrics, "/metrics" | "/stats/prometheus") => {
            let telemetry = &state.node.telemetry;
            let tasks = state.node.workers.iter().map(|w| w.metrics().num_alive_tasks());
            telemetry.metrics.alive_tasks.set(i64::try_from(tasks.sum::<usize>()).unwrap_or(0));
            let lost = i64::try_from(state.logging.dropped_lines()).unwrap_or(i64::MAX);
            telemetry.metrics.log_lines_dropped.set(lost);
            set_outage_budget(state);
            let text = telemetry.metrics.render(&telemetry.live);
            answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
        }
        (Endpoint::Admin, "/") => text(StatusCode::OK, INDEX.into()),
        (Endpoint::Admin, "/config_dump") => {
            let mut dump = state.node.mesh.load().dump();
            dump["certificates"] = json!(state.node.svids.statuses());
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

/// No identities, no budget: a gauge of 0 would say that all have run out.
fn set_outage_budget(state: &State) {
    let gauge = &state.node.telemetry.metrics.outage_budget;
    gauge.reset();
    if let Some(seconds) = state.node.svids.outage_budget().seconds {
        gauge.with_label_values(&[] as &[&str]).set(Duration::from_secs(seconds).as_secs_f64());
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
  GET  /config_dump           the mesh in force\n\
  GET  /connections           open connections\n\
  GET  /certs                 own SVIDs: source, expiry, next attempt, last error; the outage budget\n\
  POST /certs/rotate?id=ID    renew one SVID now\n\
  GET  /federation            other trust domains' bundles: state, last error, next attempt\n\
  POST /federation/refresh?trustDomain=TD  ask for one now\n\
  GET  /logging               the log filter in force\n\
  POST /logging?level=FILTER  change it, in RUST_LOG's language\n";

fn readiness(state: &State) -> Answer {
    let waiting = state.ready(|r| match (r.draining, r.loaded, r.pending.is_empty()) {
        (true, ..) => Some("draining".to_owned()),
        (_, false, _) => Some("configuration".to_owned()),
        (_, _, false) => Some(r.pending.join("; ")),
        _ => None,
    });
    // Beside a source that is down all is well until an identity in use has nothing left. At the
    // start all pods must have theirs; a pod that comes later and gets none is not held against
    // the others.
    let started = state.ready(|r| r.started);
    let without = || {
        let budget = state.node.svids.outage_budget();
        Some(if started { budget.lost } else { budget.without }).filter(|w| !w.is_empty())
    };
    let waiting = waiting.or_else(|| without().map(|without| without.join("; ")));
    match waiting {
        None => {
            state.ready(|r| r.started = true);
            text(StatusCode::OK, "ready\n".into())
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

fn post_only(request: &Request<Incoming>) -> Option<Answer> {
    let refused = || text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n".into());
    (request.method() != Method::POST).then(refused)
}

fn rotate(state: &State, request: &Request<Incoming>) -> Answer {
    if let Some(refused) = post_only(request) {
        return refused;
    }
    let id = query(request, "id").and_then(|id| id.parse().ok());
    match id.map(|id| state.node.svids.rotate_now(&id)) {
        Some(true) => text(StatusCode::OK, "renewing\n".into()),
        Some(false) => text(StatusCode::NOT_FOUND, "not an identity of this node\n".into()),
        None => text(StatusCode::BAD_REQUEST, "?id= must be a SPIFFE ID\n".into()),
    }
}

fn refresh(state: &State, request: &Request<Incoming>) -> Answer {
    if let Some(refused) = post_only(request) {
        return refused;
    }
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

fn text(status: StatusCode, body: String) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
