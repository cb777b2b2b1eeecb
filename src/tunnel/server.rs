//! The server end of a tunnel: takes CONNECT streams and hands each to a handler.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Builder, SendResponse},
};
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    CONNECTION_WINDOW, DATA_FRAME_BUDGET, MAX_CONCURRENT, MAX_FRAME, SEND_BUFFER, STREAM_WINDOW,
    connect::{Authority, forwarded_host},
    keepalive,
    record_stream::RecordStream,
    stream::{TunnelSink, TunnelSource},
};
use crate::{lifecycle::Tasks, tls::Session};

/// One request that came through a tunnel, not answered yet. Dropping it resets the stream.
#[derive(Debug)]
pub struct Incoming {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

impl Incoming {
    /// Whether the method is CONNECT.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.request.method() == http::Method::CONNECT
    }

    /// The `:authority`, if it is one.
    #[must_use]
    pub fn authority(&self) -> Option<Authority> {
        self.request.uri().authority()?.as_str().parse().ok()
    }

    /// The `:authority` as sent, for the record only; at most 300 characters.
    #[must_use]
    pub fn authority_text(&self) -> String {
        let text = self.request.uri().authority().map_or("", |a| a.as_str());
        text.chars().take(300).collect()
    }

    /// The service that the caller says it meant (telemetry only).
    #[must_use]
    pub fn forwarded_host(&self) -> Option<&str> {
        forwarded_host(self.request.headers())
    }

    /// Answers 200: bytes flow from here on. `None` if the stream is already over.
    #[must_use]
    pub fn accept(mut self, baggage: &str) -> Option<(TunnelSource, TunnelSink)> {
        let mut answer = Response::new(());
        if let Ok(baggage) = HeaderValue::from_str(baggage) {
            answer.headers_mut().insert("baggage", baggage);
        }
        let sink = self.respond.send_response(answer, false).ok()?;
        Some((TunnelSource::new(self.request.into_body(), None), TunnelSink::new(sink)))
    }

    /// Answers with an error status: headers only, END_STREAM.
    pub fn refuse(mut self, status: StatusCode) {
        let mut answer = Response::new(());
        *answer.status_mut() = status;
        // The stream may be gone already; there is nobody to tell then.
        let _ = self.respond.send_response(answer, true);
    }

    /// Waits until the caller gives up. Cancel safe.
    pub async fn abandoned(&mut self) {
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}

/// A tunnel without streams is told to go after this, looked at as often: twice what a client
/// of ours keeps one.
const IDLE: Duration = Duration::from_secs(600);

/// A tunnel that did not end in order.
#[derive(Debug)]
pub struct Broken {
    /// What broke it.
    pub why: String,
    /// How many streams it had carried; each has its own record.
    pub streams: usize,
}

/// Serves one tunnel until the peer ends it, falls silent, or `draining` fires and its
/// streams have ended (GOAWAY first, RFC 9113 §6.8).
///
/// # Errors
/// What broke the tunnel; streams in flight have then been reset.
pub async fn serve<H, F>(
    session: Session,
    peer: SocketAddr,
    within: Duration,
    tasks: &Tasks,
    draining: CancellationToken,
    handle: H,
) -> Result<(), Broken>
where
    H: Fn(Incoming) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(65_536)
        .max_concurrent_streams(MAX_CONCURRENT)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET);
    let tls = RecordStream::new(session).map_err(|e| Broken { why: e.to_string(), streams: 0 })?;
    let mut tunnel = timeout(within, builder.handshake(tls))
        .await
        .map_err(|_| Broken {
            why: format!("{peer}: no HTTP/2 preface in {within:?}"),
            streams: 0,
        })?
        .map_err(|e| Broken { why: format!("{peer}: {e}"), streams: 0 })?;
    let silent = keepalive::until_silent(tunnel.ping_pong());
    let mut silent = std::pin::pin!(silent);
    let mut goaway_sent = false;
    let mut streams = 0;
    let live = Arc::new(());
    let mut idle = tokio::time::interval(IDLE);
    idle.reset();
    loop {
        tokio::select! {
            incoming = tunnel.accept() => match incoming {
                None => return Ok(()),
                Some(Err(e)) if e.is_io() => return Ok(()),
                Some(Err(e)) => return Err(Broken { why: format!("{peer}: {e}"), streams }),
                Some(Ok((request, respond))) => {
                    streams += 1;
                    idle.reset();
                    let stream = Box::pin(handle(Incoming { request, respond }));
                    let held = Arc::clone(&live);
                    tasks.spawn(async move {
                        stream.await;
                        drop(held);
                    });
                }
            },
            () = draining.cancelled(), if !goaway_sent => {
                goaway_sent = true;
                tunnel.graceful_shutdown();
            }
            _ = idle.tick(), if !goaway_sent => {
                if Arc::strong_count(&live) == 1 {
                    goaway_sent = true;
                    tunnel.graceful_shutdown();
                }
            }
            why = &mut silent => {
                tunnel.abrupt_shutdown(Reason::NO_ERROR);
                return Err(Broken { why: format!("{peer}: {why}"), streams });
            }
        }
    }
}
