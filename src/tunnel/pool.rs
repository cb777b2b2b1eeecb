//! Tunnels that are shared by the connections of one pod, on one worker.
//!
//! A tunnel is keyed by the pod's own SVID, the identities accepted from the peer, and the
//! peer's address: a rotated SVID means new tunnels, and no pod ever uses another's key, as
//! each pod owns its pool. A dial is made once for all who wait for it, by a task of the
//! pool, so a waiter that gives up harms nobody; its failure goes to all of them at once.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    ConnectError, TunnelConfig,
    client::{StreamSlot, TunnelClient, Usage, drive},
    connect::ConnectRequest,
    stream::TunnelStream,
};
use crate::{
    identity::{BundleSet, SpiffeId, X509Svid},
    lifecycle::Tasks,
    sys::{netns::Netns, sockets},
    tls::{Connector, Peer, TlsError},
};

/// Where a tunnel goes, and who must be there.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Hop {
    /// The peer's HBONE address.
    pub addr: SocketAddr,
    /// The identities that are accepted from it.
    pub expect: Vec<SpiffeId>,
}

/// The pod's own identity at this moment, and whom it trusts.
#[derive(Clone, Debug)]
pub struct Own {
    /// Shown to the peer.
    pub svid: Arc<X509Svid>,
    /// What the peer's SVID is checked against.
    pub bundles: Arc<BundleSet>,
}

#[derive(Clone, Eq, Hash, PartialEq)]
struct Key {
    own_serial: String,
    hop: Hop,
}

#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "one per tunnel, almost always Up")]
enum State {
    Dialling,
    Up(TunnelClient),
    Failed(ConnectError),
}

struct Entry {
    state: watch::Receiver<State>,
    usage: Arc<Usage>,
    /// When the SVID that it shows became valid.
    issued: SystemTime,
    /// Ends it after its last stream.
    retire: CancellationToken,
}

impl Entry {
    /// A place for one stream.
    fn take(&self) -> (watch::Receiver<State>, StreamSlot, Arc<Usage>) {
        (self.state.clone(), StreamSlot::take(&self.usage), Arc::clone(&self.usage))
    }

    /// Room under our own limit and the peer's (RFC 9113 §5.1.2).
    fn has_room(&self, limit: usize) -> bool {
        match &*self.state.borrow() {
            State::Up(client) if !client.has_room() => return false,
            State::Failed(_) => return false,
            _ => {}
        }
        !self.usage.closed.load(Relaxed) && self.usage.streams.load(Relaxed) < limit
    }

    /// The lower the sooner a stream gets through here.
    fn rank(&self) -> Rank {
        match &*self.state.borrow() {
            State::Up(client) if client.is_busy() => Rank::Busy,
            State::Up(_) => Rank::Calm,
            _ => Rank::Dialling,
        }
    }

    fn is_over(&self) -> bool {
        self.usage.closed.load(Relaxed) || matches!(&*self.state.borrow(), State::Failed(_))
    }
}

/// Which tunnel a new stream takes, the best first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    Calm,
    /// Something large is on its way there, and the stream would wait behind it.
    Busy,
    Dialling,
}

/// With so many tunnels to one peer no more are dialled because the others are busy.
const MOST_SPREAD: usize = 4;

/// The tunnels of one pod on one worker.
pub struct Pool {
    netns: Arc<Netns>,
    config: TunnelConfig,
    connector: Arc<Connector>,
    entries: Mutex<HashMap<Key, Vec<Entry>>>,
    tasks: Tasks,
    closing: CancellationToken,
}

impl Pool {
    /// A pool that dials from inside `netns`; its tunnels live in `tasks`, and end in order,
    /// each after its last stream, once `closing` fires.
    #[must_use]
    pub fn new(
        netns: Arc<Netns>,
        config: TunnelConfig,
        tasks: Tasks,
        closing: CancellationToken,
    ) -> Self {
        Self { netns, config, connector: Arc::default(), entries: Mutex::default(), tasks, closing }
    }

    /// Opens a stream to `hop`, on a tunnel that still has room or on a new one. What the
    /// application said so far (`first`) goes with the request: the far side holds it back
    /// until policy has let the caller in.
    ///
    /// # Errors
    /// [`ConnectError`]: the dial, the handshakes or the peer's answer. A request that the
    /// peer provably did not process (GOAWAY, REFUSED_STREAM) is tried once more.
    ///
    /// # Cancel safety
    /// Dropping the future resets its own stream only; the tunnel stays usable.
    pub async fn open(
        &self,
        own: &Own,
        hop: &Hop,
        request: &ConnectRequest,
        first: &[u8],
    ) -> Result<(TunnelStream, Peer), ConnectError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (mut state, slot, usage) = self.tunnel(own, hop, tries > 1);
            let settled = state.wait_for(|s| !matches!(s, State::Dialling)).await;
            let client = match settled.map(|state| state.clone()) {
                Ok(State::Up(client)) => client,
                Ok(State::Failed(error)) => return Err(error),
                Ok(State::Dialling) | Err(_) => {
                    return Err(ConnectError::stalled(hop.addr, "tunnel", self.config.connect));
                }
            };
            match client.open(request, first, slot, &self.config).await {
                Ok(stream) => return Ok((stream, client.peer)),
                Err(error @ ConnectError::Http2 { .. }) => {
                    // Broken, going away or mute: live streams go on, new ones go elsewhere.
                    usage.closed.store(true, Relaxed);
                    if !matches!(error, ConnectError::Http2 { retry: true, .. }) || tries > 1 {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn tunnel(
        &self,
        own: &Own,
        hop: &Hop,
        fresh: bool,
    ) -> (watch::Receiver<State>, StreamSlot, Arc<Usage>) {
        let key = Key { own_serial: own.svid.serial.clone(), hop: hop.clone() };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() > 64 && !entries.contains_key(&key) {
            entries.retain(|_, tunnels| {
                tunnels.retain(|t| !t.is_over());
                !tunnels.is_empty()
            });
        }
        if !entries.contains_key(&key) {
            retire_older(&mut entries, own.svid.not_before);
        }
        let tunnels = entries.entry(key).or_default();
        tunnels.retain(|t| !t.is_over());
        let roomy = tunnels.iter().filter(|t| !fresh && t.has_room(self.config.max_streams));
        let Some(entry) = roomy.min_by_key(|t| t.rank()) else {
            let entry = self.dial(own, hop);
            let taken = entry.take();
            tunnels.push(entry);
            return taken;
        };
        let taken = entry.take();
        // This one goes where it can; those that come later need not wait behind the bulk.
        let dials = || tunnels.iter().any(|t| t.rank() == Rank::Dialling);
        if entry.rank() == Rank::Busy && tunnels.len() < MOST_SPREAD && !dials() {
            tunnels.push(self.dial(own, hop));
        }
        taken
    }

    fn dial(&self, own: &Own, hop: &Hop) -> Entry {
        let usage = Arc::new(Usage::default());
        let (say, state) = watch::channel(State::Dialling);
        let retire = self.closing.child_token();
        self.spawn_dial(own.clone(), hop.clone(), Arc::clone(&usage), say, retire.clone());
        Entry { state, usage, issued: own.svid.not_before, retire }
    }

    fn spawn_dial(
        &self,
        own: Own,
        hop: Hop,
        usage: Arc<Usage>,
        say: watch::Sender<State>,
        closing: CancellationToken,
    ) {
        let (netns, config) = (Arc::clone(&self.netns), self.config.clone());
        let connector = Arc::clone(&self.connector);
        self.tasks.spawn(async move {
            match dial(&netns, &connector, &own, &hop, &config).await {
                Ok(client) => {
                    say.send_replace(State::Up(client.clone()));
                    let addr = hop.addr;
                    let release = || {
                        let over = ConnectError::stalled(addr, "tunnel left", config.idle);
                        say.send_replace(State::Failed(over));
                    };
                    drive(client, usage, config.clone(), closing, release).await;
                }
                Err(error) => {
                    usage.closed.store(true, Relaxed);
                    say.send_replace(State::Failed(error));
                }
            }
        });
    }
}

/// Tunnels of an SVID that has been renewed take no more streams: they end with their last.
fn retire_older(entries: &mut HashMap<Key, Vec<Entry>>, now: SystemTime) {
    entries.retain(|_, tunnels| {
        tunnels.retain(|t| {
            if t.issued < now {
                t.retire.cancel();
            }
            t.issued >= now
        });
        !tunnels.is_empty()
    });
}

async fn dial(
    netns: &Netns,
    connector: &Connector,
    own: &Own,
    hop: &Hop,
    config: &TunnelConfig,
) -> Result<TunnelClient, ConnectError> {
    let addr = hop.addr;
    let tcp = sockets::outbound_socket(netns, addr);
    let tcp = match tcp {
        Ok(socket) => sockets::connect(socket, addr, config.connect).await,
        Err(e) => Err(e),
    };
    let tcp = tcp.map_err(|e| match e.kind() {
        std::io::ErrorKind::TimedOut => ConnectError::TcpTimeout { addr, within: config.connect },
        _ => ConnectError::Tcp { addr, source: Arc::new(e) },
    })?;
    let tls = connector.connect(tcp, &own.svid, &own.bundles, &hop.expect, config.tls).await;
    let session = tls.map_err(|source: TlsError| ConnectError::Tls { addr, source })?;
    TunnelClient::new(session, addr, config.limits)
}
