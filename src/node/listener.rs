//! Accept loops. One per port, pod and worker; what is accepted stays on that worker.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, net::TcpStream, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{lifecycle::Tasks, observe::metrics::Metrics};

/// Accepts until `stop`, giving each connection to `serve` as a task of its own.
///
/// When descriptors or memory run out the loop backs off instead of spinning, and counts it.
pub(super) async fn accept_loop<S, F>(
    listener: std::net::TcpListener,
    name: &'static str,
    metrics: &Metrics,
    tasks: Tasks,
    stop: CancellationToken,
    serve: S,
) where
    S: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(listener = name, %error, "cannot poll a listening socket");
            return;
        }
    };
    let mut pause = Duration::from_millis(5);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                pause = Duration::from_millis(5);
                tasks.spawn(serve(socket, peer));
            }
            Err(error) if is_one_connections_own(&error) => {}
            Err(error) => {
                metrics.accept_errors.with_label_values(&[name]).inc();
                tracing::warn!(listener = name, %error, ?pause, "accept failed, backing off");
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

fn is_one_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::Interrupted)
}
