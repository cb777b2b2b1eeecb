//! One tunnel of the client side: many CONNECT streams over one mTLS connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    ConnectError, TunnelConfig,
    connect::ConnectRequest,
    core::{Stream, TunnelError},
    driver::{DriverGuard, Tunnel},
    http2::{Limits, Role},
    order::{StreamSlot, Ticket, Usage, Way},
    registry::AuthenticatedTunnel,
    stream::TunnelStream,
};
use crate::tls::Session;

/// A tunnel that can open streams. Clones share the connection.
#[derive(Clone)]
pub(super) struct TunnelClient {
    tunnel: Arc<Tunnel>,
    addr: SocketAddr,
    pub(super) proven: Arc<AuthenticatedTunnel>,
}

impl TunnelClient {
    /// Begins HTTP/2. Somebody must [`drive`] it.
    pub(super) fn new(
        session: Session,
        proven: Arc<AuthenticatedTunnel>,
        addr: SocketAddr,
        limits: Limits,
    ) -> Result<Self, ConnectError> {
        let tunnel = Tunnel::new(Role::Client, limits, session, None);
        let tunnel = tunnel.map_err(|e| ConnectError::broken(addr, e))?;
        Ok(Self { tunnel, addr, proven })
    }

    /// Whether it takes another stream: by its own word and the peer's, and nothing begins under an
    /// SVID that has ended or is no longer trusted.
    pub(super) fn has_room(&self) -> bool {
        if self.proven.termination().is_some() || self.proven.peer.has_ended() {
            return false;
        }
        let core = self.tunnel.core();
        core.over.is_none() && core.http2.room() > 0
    }

    /// How many streams at once the peer allows.
    pub(super) fn places(&self) -> usize {
        self.tunnel.core().http2.places()
    }

    /// Whether a new stream would wait behind much that is on its way already.
    pub(super) fn is_busy(&self) -> bool {
        self.tunnel.core().is_busy()
    }

    /// Opens a stream: its id, and whether `first` goes with the request, as it does if the peer's
    /// window has room for all of it: one record carries both. `None` if the tunnel takes no more.
    fn begin(&self, authority: &str, fields: &[(&str, &str)], first: &[u8]) -> Option<(u32, bool)> {
        let mut core = self.tunnel.core();
        if core.over.is_some() {
            return None;
        }
        let id = core.http2.open(authority, fields)?;
        core.streams.insert(id, Stream::default());
        let sent = first.is_empty() || core.send(id, first).unwrap_or(false);
        core.wake_driver();
        Some((id, sent))
    }

    /// Opens one stream when it is its turn, sending `first` with the request, and waits for the
    /// answer.
    ///
    /// Cancel safe: a dropped future resets its own stream only.
    pub(super) async fn open(
        &self,
        request: &ConnectRequest,
        first: &[u8],
        (slot, ticket): (StreamSlot, &Ticket),
        config: &TunnelConfig,
    ) -> Result<TunnelStream, ConnectError> {
        let addr = self.addr;
        let way = Way::Tunnel(Arc::clone(&slot.0));
        ticket.turn(&way).await;
        let full = "the tunnel accepts no more streams".to_owned();
        let opened = request.with_fields(|authority, fields| self.begin(authority, fields, first));
        let (id, sent) = opened.ok_or(ConnectError::Http2 { addr, why: full, retry: true })?;
        ticket.sent(way);
        let usage = Arc::clone(&slot.0);
        let mut stream = TunnelStream::new(Arc::clone(&self.tunnel), id).holding(slot);
        if !sent {
            stream.hold(first);
        }
        match timeout(config.response, stream.status()).await {
            Err(_) => {
                usage.closed.store(true, Relaxed); // mute
                Err(ConnectError::stalled(addr, "response to CONNECT", config.response))
            }
            Ok(Err(none)) => {
                if none.unprocessed && self.has_room() {
                    usage.closed.store(true, Relaxed); // it refuses what it promised
                }
                Err(ConnectError::Http2 { addr, why: none.why, retry: none.unprocessed })
            }
            Ok(Ok(200)) => Ok(stream),
            Ok(Ok(status)) => Err(ConnectError::Refused { addr, status }),
        }
    }
}

#[derive(Default)]
#[allow(clippy::large_enum_variant, reason = "one per tunnel, almost always Up")]
pub(super) enum DialState {
    #[default]
    Dialling,
    Up(TunnelClient),
    Failed(ConnectError),
}

/// A tunnel that is being dialled, is up, or could not be opened.
#[derive(Default)]
pub(super) struct Dial {
    state: Mutex<DialState>,
    settled: Notify,
}

impl Dial {
    pub(super) fn state(&self) -> MutexGuard<'_, DialState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn say(&self, state: DialState) {
        *self.state() = state;
        self.settled.notify_waiters();
    }

    /// Waits until there is a tunnel or none; those who wait go on in the order in which they came.
    ///
    /// # Errors
    /// Why there is no tunnel. Cancel safe.
    pub(super) async fn settled(&self) -> Result<TunnelClient, ConnectError> {
        loop {
            let settled = self.settled.notified(); // whatever is said from here on
            match &*self.state() {
                DialState::Dialling => {}
                DialState::Up(client) => return Ok(client.clone()),
                DialState::Failed(error) => return Err(error.clone()),
            }
            settled.await;
        }
    }
}

/// Held by the task that dials: whatever becomes of that task, those who wait hear what became of
/// the tunnel.
pub(super) struct DialGuard {
    pub(super) dial: Arc<Dial>,
    pub(super) usage: Arc<Usage>,
    /// What is said if nothing else was.
    pub(super) over: ConnectError,
}

impl Drop for DialGuard {
    fn drop(&mut self) {
        self.usage.closed.store(true, Relaxed);
        let is_open = matches!(*self.dial.state(), DialState::Dialling);
        if is_open {
            self.dial.say(DialState::Failed(self.over.clone()));
        }
    }
}

/// Runs a tunnel until the peer ends it, falls silent, nobody used it for `idle` (or for a few
/// seconds, while another to that peer is unused too), or `closing` fired and its last stream has
/// ended. `release` gives up the handles that would open more streams; what is queued is still
/// sent.
pub(super) async fn drive(
    client: TunnelClient,
    usage: Arc<Usage>,
    config: TunnelConfig,
    closing: CancellationToken,
    release: impl FnOnce(),
) {
    let tunnel = Arc::clone(&client.tunnel);
    let _ends = DriverGuard(Arc::clone(&tunnel));
    let no_settings = async {
        sleep(config.http2).await;
        if tunnel.core().http2.has_settings() {
            std::future::pending::<()>().await;
        }
    };
    let over = tokio::select! {
        over = tunnel.carry() => over,
        () = client.proven.ended() => TunnelError::Silent("its peer is no longer trusted".into()),
        over = tunnel.silence() => over,
        () = no_settings => {
            TunnelError::Silent(format!("no HTTP/2 SETTINGS within {:?}", config.http2))
        }
        () = until_unused(&usage, config.idle, &closing) => TunnelError::Closed,
    };
    usage.closed.store(true, Relaxed);
    release();
    if matches!(over, TunnelError::Closed) {
        tunnel.close(FLUSH).await;
    } else {
        tracing::debug!(
            target: "tunnel", peer = %client.addr, error = %over,
            "tunnel to peer ended"
        );
        tunnel.end(over);
    }
}

/// How long a tunnel that is given up may take to send what is queued.
const FLUSH: Duration = Duration::from_secs(5);

/// One of the tunnels without a stream, until dropped.
struct Unused<'a>(&'a AtomicUsize);

impl<'a> Unused<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }

    fn is_one_of_many(&self) -> bool {
        self.0.load(Relaxed) > 1
    }
}

impl Drop for Unused<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

async fn until_unused(usage: &Usage, idle: Duration, closing: &CancellationToken) {
    let look = (idle / 10).clamp(Duration::from_millis(10), Duration::from_secs(5));
    let mut unused: Option<Unused<'_>> = None;
    let mut last_used = Instant::now();
    let mut soon = Duration::from_millis(20);
    loop {
        let wait = if closing.is_cancelled() { soon } else { look };
        soon = if closing.is_cancelled() { (soon * 2).min(Duration::from_secs(1)) } else { soon };
        tokio::select! {
            () = sleep(wait) => {}
            () = closing.cancelled(), if !closing.is_cancelled() => {}
        }
        if usage.streams.load(Relaxed) > 0 {
            last_used = Instant::now();
            unused = None;
            continue;
        }
        let surplus = unused.as_ref().is_some_and(Unused::is_one_of_many);
        if closing.is_cancelled()
            || usage.closed.load(Relaxed)
            || surplus
            || last_used.elapsed() >= idle
        {
            return;
        }
        unused.get_or_insert_with(|| Unused::new(&usage.unused));
    }
}
