//! The endpoint: few connections at once, each with a limit on its time.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use ::http::{Request, StatusCode, header};
use hyper::body::Incoming;
use rustls::{
    ServerConfig,
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{Status, metrics::Gathered, report, unix_now};
use crate::{
    http::{self, Answer, EndpointPlace, EndpointPlaces},
    lifecycle::{Tasks, source},
    standalone::{Accepting, Listening, UNIX_PEER},
    tls::classic_provider,
};

/// How many connections at once; beyond it the oldest is closed.
const MOST: usize = 32;
/// How long a TLS handshake may take.
const HEAD: Duration = Duration::from_secs(3);
/// How long a connection may last, with all its requests.
const WHOLE: Duration = Duration::from_secs(60);

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
    let (listener, status) = (listening.accepting()?, Arc::clone(status));
    let conns = tasks.child();
    tasks.spawn(async move {
        tokio::select! {
            () = accept(&listener, &status, https, &conns) => {}
            () = status.retired.cancelled() => {}
        }
    });
    Ok(())
}

async fn accept(listener: &Accepting, status: &Arc<Status>, https: bool, conns: &Tasks) {
    let places = EndpointPlaces::new(MOST, MOST);
    loop {
        let Ok((socket, peer)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(place) = places.take(&socket, source(peer.ip())) else { continue };
        // Where only this machine is served, only its own names are; a certificate has its own.
        let named = !https && peer != UNIX_PEER;
        let bound = socket.local_addr().ok().filter(|at| named && at.ip().is_loopback());
        let status = Arc::clone(status);
        conns.spawn(async move {
            let served = async {
                if !https {
                    return answer(&status, socket, bound, &place).await;
                }
                let Some(tls) = acceptor(&status) else { return };
                if let Ok(Ok(stream)) = timeout(HEAD, tls.accept(socket)).await {
                    answer(&status, stream, bound, &place).await;
                }
            };
            tokio::select! {
                () = served => {}
                () = place.given_up() => {}
            }
        });
    }
}

/// TLS with what the first service shows now; none before it has anything.
fn acceptor(status: &Status) -> Option<TlsAcceptor> {
    let material = status.services().first()?.keeper.current();
    let key = material.key.clone()?;
    let builder = ServerConfig::builder_with_provider(classic_provider());
    let builder = builder.with_protocol_versions(&[&TLS13, &TLS12]).ok()?.with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(config).into())
}

async fn answer(
    status: &Arc<Status>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    bound: Option<SocketAddr>,
    place: &EndpointPlace,
) {
    let route = |request| {
        let status = Arc::clone(status);
        async move { route(&status, bound, &request).await }
    };
    http::serve(stream, WHOLE, place.given_up(), route).await;
}

async fn route(status: &Status, bound: Option<SocketAddr>, request: &Request<Incoming>) -> Answer {
    let path = request.uri().path();
    let acts = path == "/_shutdown";
    if let Some(refused) = http::refuse_method(request.method(), acts, !acts) {
        return refused;
    }
    if acts {
        return shut_down(status, request);
    }
    let foreign = |at| http::refuse_foreign(request.uri(), request.headers(), at);
    match bound.and_then(foreign) {
        Some(refused) => refused,
        None => read(status, path, request.uri().query()).await,
    }
}

async fn read(status: &Status, path: &str, query: Option<&str>) -> Answer {
    let prometheus = query.is_some_and(|q| q.split('&').any(|q| q == "format=prometheus"));
    match path {
        "/_status" => {
            let checked = status.check().await;
            let (ok, body) = report::report(status, &checked.0, &checked.1);
            let code = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            http::answer(code, "application/json", format!("{body:#}\n"))
        }
        "/_metrics/prometheus" => exposition(status),
        "/_metrics" if prometheus => exposition(status),
        "/_metrics" | "/_metrics/json" => {
            let gathered = Gathered::of(&status.services());
            let body = gathered.to_json(&status.config.prefix, &status.hostname, unix_now());
            http::answer(StatusCode::OK, "application/json", body.to_string())
        }
        _ => text(
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
        let material = service.keeper.current();
        let (Some(own), Some(end)) = (&material.own, material.not_after) else { continue };
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

fn shut_down(status: &Status, request: &Request<Incoming>) -> Answer {
    if !status.config.shutdown {
        return text(StatusCode::METHOD_NOT_ALLOWED, "--enable-shutdown allows it\n");
    }
    // A browser always says where a page's POST comes from; no page may stop us.
    if request.headers().contains_key(header::ORIGIN) {
        return text(StatusCode::FORBIDDEN, "not from a web page\n");
    }
    tracing::info!("shutdown was asked for on the status address");
    status.shutdown.cancel();
    text(StatusCode::OK, "shutting down\n")
}

fn text(status: StatusCode, body: &str) -> Answer {
    http::text(status, body.to_owned())
}
