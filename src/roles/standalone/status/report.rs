//! What `/_status` says.

use std::{sync::Arc, time::SystemTime};

use super::{
    Phase, Status,
    view::{CertificateView, DrainingView, HolderView, ServiceView, StatusView},
};
use crate::{
    net::Direction,
    observe::{ConfigView, Refused, conn::LiveConn},
    roles::standalone::{Role, Service},
    tls::record::ChoicesView,
};

/// The most connections that are listed while draining.
const MOST_LISTED: usize = 100;

/// A moment as RFC 3339 has it.
fn moment(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// What is answered now.
pub(super) fn report(
    status: &Status,
    services: &[Arc<Service>],
    backends: &[Result<(), String>],
) -> StatusView {
    let (phase, since) = status.state();
    let last_reload = services.iter().map(|s| s.store.obtained()).max();
    let faults: Vec<String> = services
        .iter()
        .zip(backends)
        .filter_map(|(service, answer)| {
            let why = answer.as_ref().err()?;
            Some(if services.len() == 1 { why.clone() } else { named(service, why) })
        })
        .collect();
    let backend_ok = faults.is_empty() && !services.is_empty();
    let shows = services.iter().all(|s| {
        let credentials = s.store.current();
        credentials.gone.is_none() && !credentials.has_expired(SystemTime::now())
    });
    let ok = backend_ok && shows && matches!(phase, Phase::Listening | Phase::Reloading);
    let word = |ok: bool| if ok { "ok" } else { "critical" };
    let (listen_address, forward_address) = status.addresses(services);
    StatusView {
        ok,
        status: word(ok),
        listen_address,
        forward_address,
        backend_ok,
        backend_status: word(backend_ok),
        backend_error: (!faults.is_empty()).then(|| faults.join("; ")),
        time: moment(SystemTime::now()),
        last_reload: last_reload.map(moment),
        config: config(status),
        hostname: status.hostname.clone(),
        message: phase.as_str(),
        revision: env!("CARGO_PKG_VERSION"),
        compiler: env!("ADIT_COMPILER"),
        tls: ChoicesView::now(),
        services: services.iter().zip(backends).map(|(s, backend)| of_one(s, backend)).collect(),
        draining: (phase == Phase::Stopping).then(|| draining(status, since)),
    }
}

/// Whether what is on disk is what runs.
fn config(status: &Status) -> ConfigView {
    let refused = status.refused();
    let since = refused.iter().map(|(_, refused)| refused.since).min();
    let why = refused.iter().map(|(what, refused)| format!("{what}: {}", refused.error));
    let error = why.collect::<Vec<_>>().join("; ");
    ConfigView::of(since.map(|since| Refused { since, error }))
}

fn named(service: &Service, why: &str) -> String {
    format!("{}: {why}", service.config.name)
}

fn of_one(service: &Service, backend: &Result<(), String>) -> ServiceView {
    let credentials = service.store.current();
    let own = credentials.own.as_ref();
    ServiceView {
        name: service.config.name.to_string(),
        role: service.config.role.as_str(),
        listen_address: service.config.listen.to_string(),
        targets: service.config.targets.iter().map(ToString::to_string).collect(),
        backend_ok: backend.is_ok(),
        backend_error: backend.as_ref().err().cloned(),
        accepting: service.accepts() && !service.stopping(),
        open_connections: service.open(),
        certificate: CertificateView {
            subject: own.map(|own| own.subject.to_string()),
            spiffe_id: own.and_then(|own| own.id.as_ref()).map(ToString::to_string),
            source: credentials.source.clone(),
            not_after: credentials.not_after.map(moment),
            expired: credentials.has_expired(SystemTime::now()),
            taken_back: credentials.gone.clone(),
        },
        last_reload_error: service.store.last_error(),
    }
}

/// Who still holds connections, the oldest first.
fn draining(status: &Status, since: SystemTime) -> DrainingView {
    let live = status.telemetry.live.all();
    let held_by: Vec<_> = live.iter().take(MOST_LISTED).map(|conn| holder(conn)).collect();
    DrainingView {
        since: moment(since),
        connections: live.len(),
        not_listed: live.len() - held_by.len(),
        held_by,
    }
}

fn holder(conn: &LiveConn) -> HolderView {
    let (bytes_sent, bytes_received) = conn.sent_and_received();
    conn.metadata(|f| {
        // Who speaks TLS with us: who called a server, whom a client called.
        let (ours, theirs) = match conn.direction {
            Direction::Inbound => (&f.dst, &f.src),
            Direction::Outbound => (&f.src, &f.dst),
        };
        HolderView {
            service: ours.names.as_ref().map(|n| n.workload.to_string()),
            peer: conn.peer.0,
            identity: theirs.id.as_ref().map(ToString::to_string),
            to: f.dst_addr,
            age_seconds: conn.opened.elapsed().as_secs_f64(),
            bytes_received,
            bytes_sent,
        }
    })
}

/// One line on it, for the service manager.
pub(super) fn one_line(status: &Status) -> String {
    let live = status.telemetry.live.all();
    let Some(oldest) = live.first() else {
        return "draining: waiting for the last connections".into();
    };
    let id = oldest.metadata(|f| match oldest.direction {
        Direction::Inbound => f.src.id.as_ref().map(ToString::to_string),
        Direction::Outbound => f.dst.id.as_ref().map(ToString::to_string),
    });
    format!(
        "draining: {}, the oldest of {} ({}) for {}s",
        crate::identity::counted(live.len(), "connection"),
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
