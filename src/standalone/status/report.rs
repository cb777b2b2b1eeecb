//! What `/_status` says.

use std::{sync::Arc, time::SystemTime};

use serde_json::{Map, Value, json};

use super::{Phase, Status};
use crate::{
    observe::conn::{Direction, LiveConn},
    standalone::{Role, Service},
    tls::record::{Choice, choices},
};

/// The most connections that are listed while draining.
const MOST_LISTED: usize = 100;

/// A moment as RFC 3339 has it.
fn moment(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// The answer, and whether all is well.
pub(super) fn report(
    status: &Status,
    services: &[Arc<Service>],
    backends: &[Result<(), String>],
) -> (bool, Value) {
    let (phase, since) = status.state();
    let last_reload = services.iter().map(|s| s.keeper.obtained()).max();
    let faults: Vec<String> = services
        .iter()
        .zip(backends)
        .filter_map(|(service, answer)| {
            let why = answer.as_ref().err()?;
            Some(if services.len() == 1 { why.clone() } else { named(service, why) })
        })
        .collect();
    let backend_ok = faults.is_empty() && !services.is_empty();
    let shows = services.iter().all(|s| s.keeper.current().gone.is_none());
    let ok = backend_ok && shows && matches!(phase, Phase::Listening | Phase::Reloading);
    let word = |ok: bool| if ok { "ok" } else { "critical" };
    let (listen, forward) = status.addresses(services);
    let mut all = Map::new();
    let mut put = |key: &str, value: Value| all.insert(key.to_owned(), value);
    put("ok", json!(ok));
    put("status", json!(word(ok)));
    put("listen_address", json!(listen));
    put("forward_address", json!(forward));
    put("backend_ok", json!(backend_ok));
    put("backend_status", json!(word(backend_ok)));
    if !faults.is_empty() {
        put("backend_error", json!(faults.join("; ")));
    }
    put("time", json!(moment(SystemTime::now())));
    put("last_reload", json!(last_reload.map(moment)));
    put("config", config(status));
    put("hostname", json!(status.hostname));
    put("message", json!(phase.as_str()));
    put("revision", json!(env!("CARGO_PKG_VERSION")));
    put("compiler", json!(env!("ADIT_COMPILER")));
    let services: Vec<Value> =
        services.iter().zip(backends).map(|(service, backend)| of_one(service, backend)).collect();
    let aead = choices().iter().map(Choice::to_json).collect::<Vec<_>>();
    put("tls", json!({ "aead": aead }));
    put("services", Value::Array(services));
    if phase == Phase::Stopping {
        put("draining", draining(status, since));
    }
    (ok, Value::Object(all))
}

/// Whether what is on disk is what runs.
fn config(status: &Status) -> Value {
    let refused = status.refused();
    let Some(since) = refused.iter().map(|(_, refused)| refused.since).min() else {
        return json!({ "state": "current" });
    };
    let why = refused.iter().map(|(what, refused)| format!("{what}: {}", refused.error));
    json!({
        "state": "refused",
        "since": moment(since),
        "error": why.collect::<Vec<_>>().join("; "),
    })
}

fn named(service: &Service, why: &str) -> String {
    format!("{}: {why}", service.config.name)
}

fn of_one(service: &Service, backend: &Result<(), String>) -> Value {
    let material = service.keeper.current();
    let targets: Vec<String> = service.config.targets.iter().map(ToString::to_string).collect();
    json!({
        "name": service.config.name,
        "role": service.config.role.as_str(),
        "listen_address": service.config.listen.to_string(),
        "targets": targets,
        "backend_ok": backend.is_ok(),
        "backend_error": backend.as_ref().err(),
        "accepting": service.accepts() && !service.stopping(),
        "open_connections": service.open(),
        "certificate": {
            "subject": material.own.as_ref().map(|own| &own.subject),
            "spiffe_id": material.own.as_ref().and_then(|own| own.id.as_ref()).map(ToString::to_string),
            "source": material.source,
            "not_after": material.not_after.map(moment),
            "taken_back": material.gone,
        },
        "last_reload_error": service.keeper.last_error(),
    })
}

/// Who still holds connections, the oldest first.
fn draining(status: &Status, since: SystemTime) -> Value {
    let live = status.telemetry.live.all();
    let held_by: Vec<Value> = live.iter().take(MOST_LISTED).map(|conn| holder(conn)).collect();
    json!({
        "since": moment(since),
        "connections": live.len(),
        "not_listed": live.len() - held_by.len(),
        "held_by": held_by,
    })
}

fn holder(conn: &LiveConn) -> Value {
    let (sent, received) = conn.sent_and_received();
    conn.facts(|f| {
        // Who speaks TLS with us: who called a server, whom a client called.
        let (ours, theirs) = match conn.direction {
            Direction::Inbound => (&f.dst, &f.src),
            Direction::Outbound => (&f.src, &f.dst),
        };
        json!({
            "service": ours.names.as_ref().map(|n| &*n.workload),
            "peer": conn.peer.0,
            "identity": theirs.id.as_ref().map(ToString::to_string),
            "to": f.dst_addr,
            "age_seconds": conn.opened.elapsed().as_secs_f64(),
            "bytes_received": received,
            "bytes_sent": sent,
        })
    })
}

/// One line on it, for the service manager.
pub(super) fn one_line(status: &Status) -> String {
    let live = status.telemetry.live.all();
    let Some(oldest) = live.first() else { return "draining: the last connections end".into() };
    let id = oldest.facts(|f| match oldest.direction {
        Direction::Inbound => f.src.id.as_ref().map(ToString::to_string),
        Direction::Outbound => f.dst.id.as_ref().map(ToString::to_string),
    });
    format!(
        "draining: {} connections, the oldest of {} ({}) for {}s",
        live.len(),
        oldest.peer.0,
        id.as_deref().unwrap_or("no SPIFFE ID"),
        oldest.opened.elapsed().as_secs()
    )
}

/// `server` and `client`, for a list of both.
pub(super) fn listening(services: &[Arc<Service>]) -> String {
    let one = |service: &Arc<Service>| {
        let side = if service.config.role == Role::Server { "TLS" } else { "plaintext" };
        format!("{side} on {}", service.config.listen)
    };
    match services {
        [] => "starting".to_owned(),
        [service] => format!("listening: {}", one(service)),
        [service, others @ ..] => {
            format!("listening: {} and {} more", one(service), others.len())
        }
    }
}
