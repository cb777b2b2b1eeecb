//! Tunnels that are shared by the connections of one pod, on one worker.
//!
//! A tunnel is keyed by the pod's own SVID, the identities accepted from the peer, and the
//! peer's address: a rotated SVID means new tunnels, and no pod ever uses another's key, as
//! each pod owns its pool. A dial is made once for all who wait for it, by a task of the
//! pool, so a waiter that gives up harms nobody; its failure goes to all of them at once.
//!
//! A [`Ticket`] keeps the order of the connections to one destination. `before` is the tunnel that
//! the connection ahead took, `chooses` says which one this takes; `turn` waits until all ahead are
//! sent or, if they went another way, answered; `sent` says that this one is. `back` puts it in
//! line once more (at the first try it is there already), and `again` lets those behind it come back
//! too. A tunnel is known by its [`Usage`].

mod choice;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use choice::{PoolEntry, Rank, Tunnels};

use super::{
    AuthenticatedTunnel, ConnectError, TunnelConfig, TunnelRegistry,
    client::{Dial, DialGuard, DialState, TunnelClient, drive},
    connect::ConnectRequest,
    order::{StreamSlot, Ticket, Usage},
    stream::TunnelStream,
};
use crate::{
    identity::{LocalIdentity, SpiffeId, TrustDomain, TrustDomainAliases},
    lifecycle::Tasks,
    net::Direction,
    sys::{netns::Netns, sockets},
    tls::{Connector, TlsError, TunnelPort},
};

/// Where a tunnel goes, and who must be there.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Hop {
    /// The peer's HBONE address.
    pub addr: SocketAddr,
    /// The identities that are accepted from it.
    pub expect: Vec<SpiffeId>,
    /// Whether that address is an application's own.
    pub port: TunnelPort,
    /// What leads there, if the address is that of something on the way.
    pub through: Option<Arc<Through>>,
}

impl Hop {
    /// A peer that is dialled.
    #[must_use]
    pub fn new(addr: SocketAddr, expect: Vec<SpiffeId>) -> Self {
        Self { addr, expect, port: TunnelPort::Hbone, through: None }
    }

    /// A peer that is dialled at the port of the application which is meant.
    #[must_use]
    pub fn at_original_port(addr: SocketAddr, expect: Vec<SpiffeId>) -> Self {
        Self { port: TunnelPort::Original, ..Self::new(addr, expect) }
    }

    /// Whoever is expected may answer by another of the names of the trust domain of the pod that
    /// calls, too.
    pub fn add_aliases(&mut self, aliases: &TrustDomainAliases, own: &TrustDomain) {
        if aliases.is_empty() {
            return;
        }
        let add = |to: &mut Vec<SpiffeId>| {
            let others: Vec<_> = to.iter().flat_map(|id| aliases.other_names(id, own)).collect();
            for id in others {
                if !to.contains(&id) {
                    to.push(id);
                }
            }
        };
        add(&mut self.expect);
        if let Some(through) = &mut self.through {
            add(&mut Arc::make_mut(through).gateway);
        }
    }
}

/// Another network's gateway, and whom it is asked for: there the tunnel of a hop ends.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Through {
    /// The identities that are accepted from the gateway.
    pub gateway: Vec<SpiffeId>,
    /// The service behind it.
    pub hostname: Arc<str>,
    /// Its port.
    pub port: u16,
}

/// Makes the connections of tunnels that run through something else.
pub trait Underlay: Send + Sync {
    /// A connection that leads to `hop`.
    ///
    /// # Errors
    /// Why there is none.
    fn connect<'a>(
        &'a self,
        own: &'a LocalIdentity,
        hop: &'a Hop,
    ) -> BoxFuture<'a, Result<TcpStream, ConnectError>>;
}

#[derive(Clone, Eq, Hash, PartialEq)]
struct Key {
    own_serial: String,
    hop: Hop,
}

/// A request that its first tunnel did not process.
#[derive(Clone, Copy)]
struct RetryContext {
    /// When it was asked there: only tunnels dialled since then are sure to know better.
    asked: Instant,
    /// How many streams at once that peer had room for.
    places: usize,
}

/// The tunnels of one pod on one worker.
pub struct Pool {
    netns: Arc<Netns>,
    config: TunnelConfig,
    connector: Arc<Connector>,
    /// The connector of tunnels to applications' own ports.
    original_port: Arc<Connector>,
    registry: Arc<TunnelRegistry>,
    entries: Mutex<HashMap<Key, Tunnels>>,
    tasks: Tasks,
    closing: CancellationToken,
    underlay: Option<Arc<dyn Underlay>>,
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
        let (connector, registry, entries) = Default::default();
        let original_port = Arc::new(Connector::at(TunnelPort::Original));
        let underlay = None;
        Self {
            netns,
            config,
            connector,
            original_port,
            registry,
            entries,
            tasks,
            closing,
            underlay,
        }
    }

    /// The same pool with tunnels that run through something else.
    #[must_use]
    pub fn over(self, underlay: Arc<dyn Underlay>) -> Self {
        Self { underlay: Some(underlay), ..self }
    }

    /// The same pool with its tunnels entered in `registry`, which may end them.
    #[must_use]
    pub fn among(self, registry: Arc<TunnelRegistry>) -> Self {
        Self { registry, ..self }
    }

    /// Opens a stream to `hop`, on a tunnel that still has room or on a new one, behind those
    /// whose tickets are before its own. What the application said so far (`first`) goes with the
    /// request: the far side holds it back until policy has let the caller in.
    ///
    /// # Errors
    /// [`ConnectError`]: the dial, the handshakes or the peer's answer. A request that the
    /// peer provably did not process (GOAWAY, REFUSED_STREAM) is tried once more.
    ///
    /// # Cancel safety
    /// Dropping the future resets its own stream only; the tunnel stays usable.
    pub async fn open(
        &self,
        own: &LocalIdentity,
        hop: &Hop,
        (request, first): (&ConnectRequest, &[u8]),
        ticket: &Ticket,
    ) -> Result<(TunnelStream, Arc<AuthenticatedTunnel>), ConnectError> {
        ticket.back(); // for callers that try again
        let mut again = None;
        loop {
            let (dial, slot) = self.tunnel(own, hop, again, ticket);
            let client = dial.settled().await?;
            let asked = Instant::now();
            match client.open(request, first, (slot, ticket), &self.config).await {
                Ok(stream) => return Ok((stream, client.proven)),
                Err(ConnectError::Http2 { retry: true, .. }) if again.is_none() => {
                    again = Some(RetryContext { asked, places: client.places() });
                    ticket.again().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The tunnel that a new stream takes: the calmest that has room, or that of the connection
    /// before it if that is as calm. If none has room a new one is dialled; if the best is busy a
    /// new one is dialled too, for those that come later.
    fn tunnel(
        &self,
        own: &LocalIdentity,
        hop: &Hop,
        again: Option<RetryContext>,
        ticket: &Ticket,
    ) -> (Arc<Dial>, StreamSlot) {
        let key = Key { own_serial: own.svid.serial.clone(), hop: hop.clone() };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() > 64 && !entries.contains_key(&key) {
            entries.retain(|_, tunnels| {
                tunnels.prune();
                !tunnels.all.is_empty()
            });
        }
        if !entries.contains_key(&key) {
            retire_older(&mut entries, own.svid.not_before);
        }
        let tunnels = entries.entry(key).or_default();
        tunnels.prune();
        let places = again.map_or(usize::MAX, |again| again.places).min(self.config.max_streams);
        let is_open =
            |t: &PoolEntry| again.is_none_or(|again| t.begun >= again.asked) && t.has_room(places);
        let entry = tunnels.best(is_open, ticket.before());
        let Some(entry) = entry else {
            let entry = self.dial(own, hop, &tunnels.unused);
            let (dial, slot) = entry.take();
            tunnels.all.push(entry);
            ticket.chooses(&slot.0);
            return (dial, slot);
        };
        let (dial, slot) = entry.take();
        ticket.chooses(&slot.0);
        // This one goes where it can; those that come later need not wait behind the bulk.
        if matches!(entry.rank(), Rank::Busy(_)) && tunnels.may_spread() {
            tunnels.all.push(self.dial(own, hop, &tunnels.unused));
        }
        (dial, slot)
    }

    fn dial(&self, own: &LocalIdentity, hop: &Hop, unused: &Arc<AtomicUsize>) -> PoolEntry {
        let usage = Arc::new(Usage { unused: Arc::clone(unused), ..Usage::default() });
        let dial = Arc::<Dial>::default();
        let retire = self.closing.child_token();
        let over = ConnectError::stalled(hop.addr, "tunnel", self.config.connect);
        let guard = DialGuard { dial: Arc::clone(&dial), usage: Arc::clone(&usage), over };
        self.spawn_dial(own.clone(), hop.clone(), guard, retire.clone());
        PoolEntry { dial, usage, begun: Instant::now(), issued: own.svid.not_before, retire }
    }

    fn spawn_dial(
        &self,
        own: LocalIdentity,
        hop: Hop,
        guard: DialGuard,
        closing: CancellationToken,
    ) {
        let (netns, config) = (Arc::clone(&self.netns), self.config.clone());
        let connector = match hop.port {
            TunnelPort::Hbone => Arc::clone(&self.connector),
            TunnelPort::Original => Arc::clone(&self.original_port),
        };
        let registry = Arc::clone(&self.registry);
        let underlay = self.underlay.clone();
        self.tasks.spawn(async move {
            let tcp = match underlay {
                Some(underlay) => underlay.connect(&own, &hop).await,
                None => connect(&netns, hop.addr, &config).await,
            };
            let dialled = match tcp {
                Ok(tcp) => dial(tcp, (&connector, &registry), &own, &hop, &config).await,
                Err(error) => Err(error),
            };
            match dialled {
                Ok(client) => {
                    guard.dial.say(DialState::Up(client.clone()));
                    let addr = hop.addr;
                    let release = || {
                        let over = ConnectError::stalled(
                            addr,
                            "tunnel no longer used for new connections",
                            config.idle,
                        );
                        guard.dial.say(DialState::Failed(over));
                    };
                    drive(client, Arc::clone(&guard.usage), config.clone(), closing, release).await;
                }
                Err(error) => {
                    guard.usage.closed.store(true, Relaxed);
                    guard.dial.say(DialState::Failed(error));
                }
            }
        });
    }
}

/// Tunnels of an SVID that has been renewed take no more streams: they end with their last.
fn retire_older(entries: &mut HashMap<Key, Tunnels>, now: SystemTime) {
    entries.retain(|_, tunnels| {
        tunnels.all.retain(|t| {
            if t.issued < now {
                t.retire.cancel();
            }
            t.issued >= now
        });
        !tunnels.all.is_empty()
    });
}

async fn connect(
    netns: &Netns,
    addr: SocketAddr,
    config: &TunnelConfig,
) -> Result<TcpStream, ConnectError> {
    let tcp = match config.marked {
        true => sockets::outbound_socket(netns, addr),
        false => sockets::plain_socket(addr),
    };
    let tcp = match tcp {
        Ok(socket) => match config.keepalive.set_on(&socket) {
            Ok(()) => sockets::connect(socket, addr, config.connect).await,
            Err(e) => Err(e),
        },
        Err(e) => Err(e),
    };
    tcp.map_err(|e| match e.kind() {
        std::io::ErrorKind::TimedOut => ConnectError::TcpTimeout { addr, within: config.connect },
        _ => ConnectError::Tcp { addr, source: Arc::new(e) },
    })
}

async fn dial(
    tcp: TcpStream,
    (connector, registry): (&Connector, &TunnelRegistry),
    own: &LocalIdentity,
    hop: &Hop,
    config: &TunnelConfig,
) -> Result<TunnelClient, ConnectError> {
    let addr = hop.addr;
    let tls = connector.connect(tcp, &own.svid, &own.bundles, &hop.expect, config.tls).await;
    let session = tls.map_err(|source: TlsError| match hop.through {
        Some(_) => ConnectError::TlsThrough { addr, source },
        None => ConnectError::Tls { addr, port: hop.port, source },
    })?;
    let (peer, own_id) = (session.peer.clone(), own.svid.id.clone());
    let proven = registry.admit(Direction::Outbound, own_id, peer, &own.bundles);
    let proven = proven.map_err(|condemned| ConnectError::Terminated { addr, condemned })?;
    TunnelClient::new(session, proven, addr, config.limits)
}
