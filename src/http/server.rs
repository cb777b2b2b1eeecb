//! The accept loop, and the story of a connection: a place, TLS, one request after the other, each
//! within its limits.

use std::{
    convert::Infallible,
    future::{pending, ready},
    sync::Arc,
    time::Duration,
};

use ::http::{Method, Request, StatusCode};
use bytes::Bytes;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    answer::{Answer, text},
    listener::{Accept, Accepted},
    origin::{Reached, Readers, refuse_foreign},
    places::{ConnectionLimits, ConnectionPlace},
    request::{self, Methods},
    write_deadline::WriteDeadline,
};
use crate::lifecycle::{AcceptBackoff, Tasks, is_of_one_connection};

/// How many bytes and header fields the head of a request may have.
const LONGEST_HEAD: usize = 8192;
const MOST_HEADERS: usize = 64;
/// How long at most nothing is accepted after descriptors ran out: a probe waits for a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long accepting rests where no place is left.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How much one endpoint gives to its clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Connections at a time; beyond it the oldest is closed. Streams have a few more places.
    pub connections: usize,
    /// Of them from one address (an IPv6 /64).
    pub per_address: usize,
    /// Of them with descriptors that are kept from traffic.
    pub reserved: usize,
    /// How long each step of a connection may take.
    pub deadlines: Deadlines,
}

/// How long each step of a connection may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Deadlines {
    /// The TLS handshake.
    pub handshake: Duration,
    /// The head of a request, also of the next one on an idle connection.
    pub head: Duration,
    /// Its body.
    pub body: Duration,
    /// How long a client may take nothing of an answer.
    pub write: Duration,
    /// The connection with all its requests.
    pub lifetime: Duration,
}

impl Deadlines {
    /// For one page or a few.
    pub const SHORT: Self = Self {
        handshake: Duration::from_secs(5),
        head: Duration::from_secs(2),
        body: Duration::from_secs(5),
        write: Duration::from_secs(10),
        lifetime: Duration::from_secs(30),
    };
}

impl Limits {
    /// For operators, who are to see how a process is that is short of descriptors.
    pub const OPERATORS: Self =
        Self { connections: 64, per_address: 32, reserved: 8, deadlines: Deadlines::SHORT };
    /// For whoever reads what is public.
    pub const PUBLIC: Self = Self {
        connections: 256,
        per_address: 64,
        reserved: 0,
        deadlines: Deadlines { lifetime: Duration::from_secs(10), ..Deadlines::SHORT },
    };
}

/// What an endpoint shows and does.
pub trait Handler: Send + Sync + 'static {
    /// TLS for the next connection; none is plain HTTP.
    ///
    /// # Errors
    /// Why there is nothing to show: the connection is closed.
    fn tls(&self) -> impl Future<Output = Result<Option<TlsAcceptor>, String>> + Send {
        ready(Ok(None))
    }

    /// What may be done with a path. What changes something takes POST: the server looks at where
    /// such a request comes from.
    fn methods(&self, path: &str) -> Methods;

    /// The answer to a request that passed: its method, its `Host`, `Origin` and body.
    fn handle(&self, request: &Request<Bytes>) -> impl Future<Output = Answer> + Send;
}

/// One endpoint.
#[derive(Clone, Debug)]
pub struct Server {
    /// What it is called in logs.
    pub name: &'static str,
    /// How much it gives.
    pub limits: Limits,
    /// Whether who reads is looked at as who changes something always is.
    pub readers: Readers,
    /// Names of this machine beside `localhost` and its addresses.
    pub names: Vec<String>,
}

impl Server {
    /// Takes connections of `listener` until dropped, and serves each in `conns`.
    pub async fn run(self, listener: impl Accept, handler: Arc<impl Handler>, conns: Tasks) {
        let Limits { connections, per_address, reserved, .. } = self.limits;
        let places = ConnectionLimits::new(connections, per_address, reserved);
        let mut backoff = AcceptBackoff::new(self.name).at_most(LONGEST_PAUSE);
        let server = Arc::new(self);
        loop {
            let accepted = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    backoff.failed(&error).await;
                    continue;
                }
            };
            backoff.succeeded();
            let Some(place) = places.take(&accepted, accepted.source()) else {
                drop(accepted);
                sleep(BACK_OFF).await;
                continue;
            };
            let (server, handler) = (Arc::clone(&server), Arc::clone(&handler));
            conns.spawn(async move {
                let (name, peer) = (server.name, accepted.peer);
                let lifetime = server.limits.deadlines.lifetime;
                let served = tokio::select! {
                    served = server.serve(accepted, &*handler, &place) => served,
                    () = expired(lifetime, &place) => {
                        Err(format!("not finished after {lifetime:?}"))
                    }
                    () = place.given_up() => Err("it was closed in favour of a newer \
                                                  connection".into()),
                };
                if let Err(error) = served {
                    let peer = peer.map(tracing::field::display);
                    tracing::debug!(
                        target: "http", endpoint = name, peer, error,
                        "a connection failed"
                    );
                }
            });
        }
    }

    async fn serve(
        &self,
        accepted: Accepted,
        handler: &impl Handler,
        place: &ConnectionPlace,
    ) -> Result<(), String> {
        let Some(reached) = accepted.reached() else { return Ok(()) };
        let Some(tls) = handler.tls().await? else {
            return self.requests(accepted.socket, reached, handler, place).await;
        };
        let Deadlines { handshake, .. } = self.limits.deadlines;
        let stream = timeout(handshake, tls.accept(accepted.socket)).await;
        let stream =
            stream.map_err(|_| format!("TLS handshake not finished after {handshake:?}"))?;
        self.requests(stream.map_err(|e| e.to_string())?, Reached::Tls, handler, place).await
    }

    async fn requests(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        reached: Reached,
        handler: &impl Handler,
        place: &ConnectionPlace,
    ) -> Result<(), String> {
        let service = service_fn(|request| async move {
            let mut answer = self.answer(request, reached, handler).await;
            if answer.body().is_stream() {
                match place.begin_stream() {
                    Some(gone) => answer.body_mut().close_when(gone),
                    None => {
                        let full = "too many clients are already listening\n";
                        answer = text(StatusCode::SERVICE_UNAVAILABLE, full);
                    }
                }
            }
            Ok::<_, Infallible>(answer)
        });
        let Deadlines { head, write, .. } = self.limits.deadlines;
        let stream = TokioIo::new(WriteDeadline::new(stream, write));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(head)
            .max_buf_size(LONGEST_HEAD)
            .max_headers(MOST_HEADERS);
        http.serve_connection(stream, service).await.map_err(|e| e.to_string())
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        reached: Reached,
        handler: &impl Handler,
    ) -> Answer {
        let (head, body) = request.into_parts();
        if let Some(refused) = handler.methods(head.uri.path()).refuse(&head.method) {
            return refused;
        }
        let reads = head.method == Method::GET || head.method == Method::HEAD;
        if (!reads || self.readers.are_checked(reached))
            && let Some(refused) = refuse_foreign(&head.uri, &head.headers, reached, &self.names)
        {
            return refused;
        }
        match request::read(body, self.limits.deadlines.body).await {
            Ok(body) => handler.handle(&Request::from_parts(head, body)).await,
            Err(refused) => refused,
        }
    }
}

/// Waits until a connection has lasted as long as it may: one that streams has no end of its own.
async fn expired(lifetime: Duration, place: &ConnectionPlace) {
    sleep(lifetime).await;
    if place.is_stream() {
        pending::<()>().await;
    }
}
