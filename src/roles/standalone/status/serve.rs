//! The pages of the endpoint, over HTTP or HTTPS.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ::http::{Request, StatusCode};
use bytes::Bytes;
use rustls::{
    ServerConfig,
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use tokio_rustls::TlsAcceptor;

use super::{Status, metrics::Gathered, report, unix_now};
use crate::{
    http::{self, Accept, Accepted, Answer, Deadlines, Handler, Limits, Methods, Readers, Server},
    lifecycle::Tasks,
    net::{Accepting, Listening, UNIX_PEER},
    tls::classic_provider,
};

/// Longer than for other endpoints: targets are asked before there is an answer.
const LIMITS: Limits = Limits {
    deadlines: Deadlines { lifetime: Duration::from_secs(60), ..Deadlines::SHORT },
    ..Limits::OPERATORS
};

/// Serves on `listening` in `tasks`, until they are cut or
/// another process has taken over. Needs the control runtime.
///
/// # Errors
/// No descriptors.
pub fn serve(
    status: &Arc<Status>,
    listening: &Listening,
    https: bool,
    tasks: &Tasks,
) -> std::io::Result<()> {
    let (listener, conns) = (listening.accepting()?, tasks.child());
    let server = Server {
        name: "status",
        limits: LIMITS,
        readers: Readers::ByOwnNameOnLoopback,
        names: status.own_names(),
    };
    let pages = Arc::new(Pages { status: Arc::clone(status), https });
    let status = Arc::clone(status);
    tasks.spawn(async move {
        tokio::select! {
            () = server.run(listener, pages, conns) => {}
            () = status.retired.cancelled() => {}
        }
    });
    Ok(())
}

impl Accept for Accepting {
    async fn accept(&self) -> std::io::Result<Accepted> {
        Ok(match Self::accept(self).await? {
            (socket, UNIX_PEER) => Accepted::unix_as_tcp(socket),
            (socket, peer) => Accepted::tcp(socket, peer),
        })
    }
}

struct Pages {
    status: Arc<Status>,
    https: bool,
}

impl Handler for Pages {
    async fn tls(&self) -> Result<Option<TlsAcceptor>, String> {
        match self.https {
            false => Ok(None),
            true => acceptor(&self.status).map(Some).ok_or_else(|| "no certificate yet".to_owned()),
        }
    }

    fn methods(&self, path: &str) -> Methods {
        if path == "/_shutdown" { Methods::Change } else { Methods::Read }
    }

    async fn handle(&self, request: &Request<Bytes>) -> Answer {
        match request.uri().path() {
            "/_shutdown" => shut_down(&self.status),
            path => read(&self.status, path, request).await,
        }
    }
}

/// TLS with what the first service shows now; none before it has anything.
fn acceptor(status: &Status) -> Option<TlsAcceptor> {
    let credentials = status.services().first()?.store.current();
    let key = credentials.key.clone()?;
    let builder = ServerConfig::builder_with_provider(classic_provider());
    let builder = builder.with_protocol_versions(&[&TLS13, &TLS12]).ok()?.with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(config).into())
}

async fn read(status: &Status, path: &str, request: &Request<Bytes>) -> Answer {
    match path {
        "/_status" => {
            let checked = status.check().await;
            let body = report::report(status, &checked.0, &checked.1);
            let code = if body.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            http::json(code, &body)
        }
        "/_metrics/prometheus" => exposition(status),
        "/_metrics" if http::query(request, "format") == Some("prometheus") => exposition(status),
        "/_metrics" | "/_metrics/json" => {
            let gathered = Gathered::of(&status.services());
            let body = gathered.to_json(&status.config.prefix, &status.hostname, unix_now());
            http::answer(StatusCode::OK, "application/json", body.to_string())
        }
        _ => http::text(
            StatusCode::NOT_FOUND,
            "no such page; there are /_status, /_metrics, /_metrics/json, \
             /_metrics/prometheus and, with --enable-shutdown, POST /_shutdown\n",
        ),
    }
}

fn exposition(status: &Status) -> Answer {
    let services = status.services();
    let metrics = &status.telemetry.metrics;
    let mut own_names = HashSet::new();
    for service in services.iter() {
        let credentials = service.store.current();
        let (Some(own), Some(end)) = (&credentials.own, credentials.not_after) else { continue };
        let since = end.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics.credentials.not_after.with_label_values(&[own.name()]).set(since.as_secs_f64());
        own_names.insert(own.name().to_owned());
    }
    metrics.credentials.retain(|identity| own_names.contains(identity));
    metrics.config.rejected_files.set(i64::try_from(status.refused().len()).unwrap_or(i64::MAX));
    let mut body = Gathered::of(&services).to_prometheus(&status.config.prefix);
    body += &metrics.render(&status.telemetry.live);
    http::answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

fn shut_down(status: &Status) -> Answer {
    if !status.config.shutdown {
        return http::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "start adit with --enable-shutdown to allow it\n",
        );
    }
    tracing::info!("shutdown was requested on the status address");
    status.shutdown.cancel();
    http::text(StatusCode::OK, "shutting down\n")
}
