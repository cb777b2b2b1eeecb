//! The way in: HTTP/2 on one connection, the security header before anything else, then the
//! caller's share; both are settled before a call is looked at.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderMap, Request, Response};
use hyper::{body::Incoming, rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, service::Routes};
use tower::Service;

use super::{
    attest::CallingProcess,
    limits::{CallerGroup, Calls, UsagePlace},
    shared::Shared,
};
use crate::{
    lifecycle::{self, Tasks},
    rpc::AnyAuthority,
};

/// The header, with the value `true`, once (Workload Endpoint §3).
const HEADER: &str = "workload.spiffe.io";
/// How soon after the connect the first byte must come.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// How soon after that the first request must be here.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long a connection stays on which nothing is asked for, and how long its end may take.
const IDLE: Duration = Duration::from_secs(600);
const ENDING: Duration = Duration::from_secs(5);
/// How often a client is asked whether it is still there, and how long it may take to say so.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Calls at a time on one connection; the caller's share is for all its connections.
const STREAMS: u32 = 64;

/// One connection.
pub(super) struct CallerConnection {
    pub(super) shared: Arc<Shared>,
    pub(super) routes: Routes,
    pub(super) caller: Arc<CallingProcess>,
    pub(super) group: CallerGroup,
    pub(super) place: UsagePlace,
    pub(super) seat: lifecycle::Place<CallerGroup>,
}

/// Runs what a connection spawns among the tasks of the server.
#[derive(Clone)]
struct Among(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Among {
    fn execute(&self, work: F) {
        self.0.spawn(work);
    }
}

impl CallerConnection {
    pub(super) async fn serve(self, socket: UnixStream, tasks: Tasks) {
        let begun = tokio::select! {
            begun = tokio::time::timeout(FIRST_BYTE, socket.readable()) => begun,
            () = self.seat.given_up() => return,
        };
        if !matches!(begun, Ok(Ok(()))) {
            return;
        }
        let mut http = http2::Builder::new(Among(tasks));
        http.timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(16 << 10)
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1);
        let Self { shared, routes, caller, group, place: _place, seat } = self;
        let (seat, asked) = (Arc::new(seat), CancellationToken::new());
        let (of, first) = (Arc::clone(&seat), asked.clone());
        let calls = Calls::none();
        let counted = calls.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            first.cancel();
            let admitted = admit(&shared, &caller, group, &counted, request);
            let (mut routes, seat) = (routes.clone(), Arc::clone(&of));
            async move {
                let answer = match admitted {
                    Ok(request) => routes.call(request).await,
                    Err(status) => return Ok::<_, Infallible>(refusal(&status)),
                }?;
                // A refusal says so in its head (gRPC's Trailers-Only).
                if !answer.headers().contains_key("grpc-status") {
                    seat.prove();
                }
                Ok(answer)
            }
        });
        let served = http.serve_connection(TokioIo::new(AnyAuthority::new(socket)), answer);
        let mut served = std::pin::pin!(served);
        tokio::select! {
            // A client that goes away in the middle concerns nobody.
            _ = &mut served => return,
            () = silent(&asked) => return,
            () = seat.given_up() => return,
            () = calls.idle_for(IDLE) => {}
        }
        // It is told, so that no call of this moment is lost.
        served.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(ENDING, served).await;
    }
}

/// Waits until the first request is overdue; for ever if it has come.
async fn silent(asked: &CancellationToken) {
    if tokio::time::timeout(FIRST_REQUEST, asked.cancelled()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// The request with its caller and its place, or why it is refused.
fn admit(
    shared: &Shared,
    caller: &Arc<CallingProcess>,
    group: CallerGroup,
    calls: &Calls,
    mut request: Request<Incoming>,
) -> Result<Request<Incoming>, Status> {
    if !request.uri().path().starts_with("/grpc.reflection.") {
        check_header(request.headers())?;
    }
    let place = shared.limits.call(group, caller.pid(), calls);
    let place = place.map_err(|why| Status::unavailable(why.to_string()))?;
    request.extensions_mut().insert(Arc::clone(caller));
    request.extensions_mut().insert(Arc::new(place));
    Ok(request)
}

fn check_header(headers: &HeaderMap) -> Result<(), Status> {
    let mut values = headers.get_all(HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument(
            "metadata workload.spiffe.io: true must be sent, once (Workload Endpoint §3)",
        )),
    }
}

fn refusal(status: &Status) -> Response<Body> {
    status.clone().into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_once_and_exactly() {
        for (values, right) in [
            (&["true"][..], true),
            (&[], false),
            (&["True"], false),
            (&["1"], false),
            (&["true "], false),
            (&[""], false),
            (&["true", "true"], false),
            (&["true,true"], false),
            (&["true", "false"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, value.parse().unwrap());
            }
            assert_eq!(check_header(&headers).is_ok(), right, "{values:?}");
        }
    }
}
