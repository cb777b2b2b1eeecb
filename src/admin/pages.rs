//! Which page is which, and those that are only shown.

use std::sync::Arc;

use ::http::{Request, StatusCode};
use bytes::Bytes;
use futures_util::stream::unfold;

use super::{
    changes::{logging, quit, refresh, rotate},
    metrics::metrics,
    profile,
    state::{Source, State},
    views::CertsView,
};
use crate::{
    http::{Answer, Handler, Methods, json, stream, text},
    lifecycle::blocking,
    observe::{Refused, conn::Notification},
};

#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Endpoint {
    Admin,
    Metrics,
    Readiness,
}

/// The pages of one endpoint.
pub(super) struct Pages {
    pub(super) state: Arc<State>,
    pub(super) endpoint: Endpoint,
}

impl Handler for Pages {
    fn methods(&self, path: &str) -> Methods {
        match (self.endpoint, path) {
            (Endpoint::Admin, "/quitquitquit") if self.state.environment().is_some() => {
                Methods::Change
            }
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
        (Endpoint::Metrics, "/metrics" | "/stats/prometheus") => metrics(state, request).await,
        (Endpoint::Admin, "/") => match state.environment() {
            Some(_) => text(StatusCode::OK, format!("{INDEX_OF_AMBIENT}{INDEX_OF_BOTH}")),
            None => text(StatusCode::OK, format!("{INDEX}{INDEX_OF_BOTH}")),
        },
        (Endpoint::Admin, "/config_dump") => dump(state).await,
        (Endpoint::Admin, "/connections") => {
            json(StatusCode::OK, &state.node.telemetry.live.views())
        }
        (Endpoint::Admin, "/events") => events(state),
        (Endpoint::Admin, "/certs") => json(StatusCode::OK, &CertsView::of(&state.node.svids)),
        (Endpoint::Admin, "/certs/rotate") => rotate(state, request),
        (Endpoint::Admin, "/federation") => federation(state),
        (Endpoint::Admin, "/federation/refresh") => refresh(state, request),
        (Endpoint::Admin, "/logging") => logging(state, request),
        (Endpoint::Admin, "/debug/pprof/profile") => profile::cpu(request),
        (Endpoint::Admin, "/debug/pprof/heap" | "/debug/pprof/heap/profiling") => profile::heap(),
        (Endpoint::Admin, "/quitquitquit") if state.environment().is_some() => quit(state),
        _ => text(StatusCode::NOT_FOUND, "no such page; see /\n"),
    }
}

const INDEX: &str = "adit admin\n\
  GET  /config_dump           the mesh in use, and whether the file was accepted\n\
  GET  /federation            other trust domains' bundles: state, last error, next attempt\n\
  POST /federation/refresh?trustDomain=TD  ask for one now\n";
const INDEX_OF_AMBIENT: &str = "adit admin\n\
  GET  /config_dump           mesh, policies, SVIDs and pods in use; istioctl ztunnel-config reads it\n\
  POST /quitquitquit          drain, then exit\n";
const INDEX_OF_BOTH: &str = "GET  /connections           open connections\n\
  GET  /events                connection events from now on, as JSON lines\n\
  GET  /certs                 own SVIDs: source, expiry, next attempt, last error; outage budget\n\
  POST /certs/rotate?id=ID    renew one SVID now\n\
  GET  /logging               the log filter in use\n\
  POST /logging?level=FILTER  change it, in the syntax of RUST_LOG; &reset goes back to the default first\n\
  GET  /debug/pprof/profile?seconds=N&frequency=N  where CPU time goes, for pprof\n";

/// The mesh may be large, and the control thread has other things to do: what is shown is the view of
/// now, written elsewhere. One at a time, as each takes several times the memory of the mesh.
async fn dump(state: &Arc<State>) -> Answer {
    let _turn = state.dumping.lock().await;
    let of = Arc::clone(state);
    let written = blocking(move || json(StatusCode::OK, &of.dump())).await;
    written.unwrap_or_else(|error| {
        text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the dump cannot be written as JSON: {error}\n"),
        )
    })
}

fn federation(state: &State) -> Answer {
    match &state.source {
        Source::File(federation) => json(StatusCode::OK, &serde_json::json!(federation.statuses())),
        Source::Ambient(_) => json(StatusCode::OK, &serde_json::json!([])),
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
            text(
                StatusCode::OK,
                format!("ready\n{}{}", refused.unwrap_or_default(), state.absent()),
            )
        }
        Some(what) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("not ready, pending: {what}\n"))
        }
    }
}

#[cfg(test)]
mod tests;
