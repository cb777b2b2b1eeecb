//! One tunnel of the client side: many CONNECT streams over one mTLS connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    CONNECTION_WINDOW, ConnectError, DATA_FRAME_BUDGET, MAX_FRAME, SEND_BUFFER, STREAM_WINDOW,
    TunnelConfig,
    connect::ConnectRequest,
    keepalive,
    record_stream::RecordStream,
    stream::{TunnelSink, TunnelSource},
};
use crate::tls::Peer;

/// A tunnel that can open streams. Clones share the connection.
#[derive(Clone, Debug)]
pub(super) struct TunnelClient {
    send: SendRequest<Bytes>,
    addr: SocketAddr,
    pub(super) peer: Peer,
}

/// How much a tunnel is used; shared by the pool, the streams and the driver.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) streams: AtomicUsize,
    pub(super) closed: AtomicBool,
}

/// One stream's place in its tunnel, given back on drop.
#[derive(Debug)]
pub(super) struct StreamSlot(Arc<Usage>);

impl StreamSlot {
    pub(super) fn take(usage: &Arc<Usage>) -> Self {
        usage.streams.fetch_add(1, Relaxed);
        Self(Arc::clone(usage))
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

/// The connection behind a tunnel, which somebody must poll.
pub(super) type Driver = Connection<RecordStream, Bytes>;

impl TunnelClient {
    /// Speaks the HTTP/2 preface. The returned driver must be given to [`drive`].
    pub(super) async fn handshake(
        tls: RecordStream,
        addr: SocketAddr,
        peer: Peer,
        within: Duration,
    ) -> Result<(Self, Driver), ConnectError> {
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(16_384)
            .max_send_buffer_size(SEND_BUFFER)
            .initial_max_send_streams(100)
            .data_frame_budget(DATA_FRAME_BUDGET)
            .enable_push(false);
        let spoken = timeout(within, builder.handshake(tls)).await;
        let (send, driver) = spoken
            .map_err(|_| ConnectError::stalled(addr, "HTTP/2 preface", within))?
            .map_err(|e| ConnectError::http2(addr, &e))?;
        Ok((Self { send, addr, peer }, driver))
    }

    /// How many streams the peer allows at once.
    pub(super) fn peer_limit(&self) -> usize {
        self.send.current_max_send_streams().max(1)
    }

    /// Opens one stream and waits for the answer.
    ///
    /// Cancel safe: a dropped future resets its own stream only.
    pub(super) async fn open(
        &self,
        request: &ConnectRequest,
        slot: StreamSlot,
        config: &TunnelConfig,
    ) -> Result<(TunnelSource, TunnelSink), ConnectError> {
        let broken = |e: h2::Error| ConnectError::http2(self.addr, &e);
        let before_sending =
            |e: h2::Error| ConnectError::Http2 { addr: self.addr, why: e.to_string(), retry: true };
        let ask = async {
            let mut send = self.send.clone().ready().await.map_err(before_sending)?;
            let (answer, sink) =
                send.send_request(request.to_http(), false).map_err(before_sending)?;
            Ok((answer.await.map_err(broken)?, sink))
        };
        let (answer, sink) = timeout(config.response, ask).await.map_err(|_| {
            ConnectError::stalled(self.addr, "answer to CONNECT", config.response)
        })??;
        if answer.status() != http::StatusCode::OK {
            return Err(ConnectError::Refused {
                addr: self.addr,
                status: answer.status().as_u16(),
            });
        }
        let source = TunnelSource::new(answer.into_body(), Some(slot));
        Ok((source, TunnelSink::new(sink)))
    }
}

/// Runs a tunnel until the peer ends it, falls silent, nobody used it for `idle`, or
/// `closing` fired and its last stream has ended. `release` gives up the handles that would
/// open more streams; what is queued is still sent.
pub(super) async fn drive(
    mut driver: Driver,
    usage: Arc<Usage>,
    idle: Duration,
    closing: CancellationToken,
    release: impl FnOnce(),
) {
    let pings = driver.ping_pong();
    let unused = async {
        until_unused(&usage, idle, &closing).await;
        usage.closed.store(true, Relaxed);
        release();
        sleep(FLUSH).await; // the driver below ends first, unless the peer takes nothing
    };
    let why = tokio::select! {
        ended = driver => ended.err().map(|e| e.to_string()),
        silent = keepalive::until_silent(pings) => Some(silent),
        () = unused => None,
    };
    usage.closed.store(true, Relaxed);
    if let Some(why) = why {
        tracing::debug!(target: "tunnel", error = why, "tunnel to peer ended");
    }
}

/// How long a tunnel that is given up may take to send what is queued.
const FLUSH: Duration = Duration::from_secs(5);

async fn until_unused(usage: &Usage, idle: Duration, closing: &CancellationToken) {
    let look = (idle / 10).clamp(Duration::from_millis(10), Duration::from_secs(10));
    let mut last_used = Instant::now();
    loop {
        let wait = if closing.is_cancelled() { Duration::from_millis(20) } else { look };
        tokio::select! {
            () = sleep(wait) => {}
            () = closing.cancelled(), if !closing.is_cancelled() => {}
        }
        if usage.streams.load(Relaxed) > 0 {
            last_used = Instant::now();
        } else if closing.is_cancelled() || last_used.elapsed() >= idle {
            return;
        }
    }
}
