//! The open tunnels: each is checked when it is registered, and again whenever what its peer was
//! trusted by changes (bundles, CRLs, bans) or its SVID expires.
//!
//! One entry per tunnel, not per stream: a stream's record has the number of its tunnel.
//! Not here: ending the streams of a tunnel that may not stay (`proxy::revalidate`).

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use pki_types::UnixTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    identity::{BundleSet, Purpose, SpiffeId, SvidError, verify_svid},
    net::{CloseReason, Direction},
    observe::conn::{LiveTable, TunnelId},
    tls::{Peer, TlsError},
};

/// What happens to a tunnel whose peer's SVID has expired.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PeerExpiry {
    /// It stays, and begins nothing new, as in Istio: an SVID lives for an hour, a database's
    /// connections for weeks. A peer that must go at once is revoked or banned.
    #[default]
    Keep,
    /// It is closed so long after.
    Grace(Duration),
}

/// Why a tunnel must be closed, or must not be established.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Termination {
    /// For its streams' records.
    pub reason: CloseReason,
    /// For people.
    pub why: Arc<str>,
}

/// A tunnel whose two ends are proven. Dropping it takes it off the table.
pub struct AuthenticatedTunnel {
    /// Its number, which is in the records of its streams.
    pub id: TunnelId,
    /// Inbound if the peer came to us.
    pub direction: Direction,
    /// The local workload's identity.
    pub own: SpiffeId,
    /// Who is there.
    pub peer: Peer,
    condemned: OnceLock<Termination>,
    end: CancellationToken,
    table: Arc<Table>,
}

impl fmt::Debug for AuthenticatedTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthenticatedTunnel({} {} {})", self.own, self.direction.as_str(), self.peer.id)
    }
}

impl AuthenticatedTunnel {
    /// Why no stream may begin here any more.
    #[must_use]
    pub fn termination(&self) -> Option<&Termination> {
        self.condemned.get()
    }

    /// Ends the tunnel: the second step, after its streams know why.
    pub fn end(&self) {
        self.end.cancel();
    }

    /// Waits until somebody ends it. Cancel safe.
    pub async fn ended(&self) {
        self.end.cancelled().await;
    }
}

impl Drop for AuthenticatedTunnel {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
    }
}

#[derive(Default)]
struct Table {
    tunnels: Mutex<HashMap<TunnelId, Weak<AuthenticatedTunnel>>>,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<TunnelId, Weak<AuthenticatedTunnel>>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What peers are checked against at one moment.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// The trusted bundles.
    pub bundles: Arc<BundleSet>,
    /// Who may not be there, whatever they show.
    pub banned: Arc<BTreeSet<SpiffeId>>,
}

/// The open tunnels of a node or of one service, and what they are checked against.
#[derive(Default)]
pub struct TunnelRegistry {
    table: Arc<Table>,
    bundles: Option<watch::Receiver<Arc<BundleSet>>>,
    banned: Option<watch::Receiver<Arc<BTreeSet<SpiffeId>>>>,
}

impl fmt::Debug for TunnelRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelRegistry({})", self.table.lock().len())
    }
}

impl TunnelRegistry {
    /// Creates a registry whose tunnels are revalidated against these bundles and bans. The default
    /// registry never revalidates.
    #[must_use]
    pub fn new(
        bundles: watch::Receiver<Arc<BundleSet>>,
        banned: Option<watch::Receiver<Arc<BTreeSet<SpiffeId>>>>,
    ) -> Self {
        Self { table: Arc::default(), bundles: Some(bundles), banned }
    }

    /// The bundles and bans that peers are checked against now; `None` if tunnels are not
    /// revalidated.
    #[must_use]
    pub fn trust(&self) -> Option<Trust> {
        let banned = self.banned.as_ref().map(|b| Arc::clone(&b.borrow()));
        let bundles = Arc::clone(&self.bundles.as_ref()?.borrow());
        Some(Trust { bundles, banned: banned.unwrap_or_default() })
    }

    /// Enters a tunnel whose handshake was checked against `bundles`.
    ///
    /// It is on the table before it is judged by what holds now: a change that comes in between
    /// is either seen here, or by the re-check that follows the change.
    ///
    /// # Errors
    /// Why it must not be established.
    pub fn admit(
        &self,
        direction: Direction,
        own: SpiffeId,
        peer: Peer,
        bundles: &Arc<BundleSet>,
    ) -> Result<Arc<AuthenticatedTunnel>, Termination> {
        let proven = Arc::new(AuthenticatedTunnel {
            id: TunnelId::next(),
            direction,
            own,
            peer,
            condemned: OnceLock::new(),
            end: CancellationToken::new(),
            table: Arc::clone(&self.table),
        });
        self.table.lock().insert(proven.id, Arc::downgrade(&proven));
        if let Some(trust) = self.trust() {
            is_not_banned(&proven, &trust)?;
            if !Arc::ptr_eq(bundles, &trust.bundles) {
                is_believed(&proven, &trust, SystemTime::now())?;
            }
        }
        Ok(proven)
    }

    /// Those that are open.
    #[must_use]
    pub fn open(&self) -> Vec<Arc<AuthenticatedTunnel>> {
        self.table.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Judges those open now, and terminates and returns those that may not stay. `verify` says
    /// whose chains need to be looked at again.
    pub fn recheck(
        &self,
        trust: &Trust,
        verify: impl Fn(&SpiffeId) -> bool,
        expiry: PeerExpiry,
        now: SystemTime,
    ) -> Vec<Arc<AuthenticatedTunnel>> {
        let open = self.open();
        // Of many tunnels with one peer, one is verified.
        let mut known = HashMap::new();
        let mut condemned = Vec::new();
        for proven in open {
            let mut believed = || {
                let key = (proven.direction, Arc::clone(&proven.peer.chain));
                known.entry(key).or_insert_with(|| is_believed(&proven, trust, now)).clone()
            };
            let judged = is_not_banned(&proven, trust)
                .and_then(|()| if verify(&proven.peer.id) { believed() } else { Ok(()) })
                .and_then(|()| is_in_time(&proven.peer, expiry, now));
            if let Err(verdict) = judged
                && proven.condemned.set(verdict).is_ok()
            {
                condemned.push(proven);
            }
        }
        condemned
    }
}

/// Closes the streams of tunnels that may not stay, each with why, and then the tunnels.
///
/// A stream puts its tunnel's number into its record and then asks whether its tunnel is
/// terminated; here it is terminated first and looked for then: no stream is missed.
pub fn close_terminated(terminated: &[Arc<AuthenticatedTunnel>], live: &LiveTable) {
    if terminated.is_empty() {
        return;
    }
    let by_id: HashMap<_, _> = terminated.iter().map(|tunnel| (tunnel.id, tunnel)).collect();
    for conn in live.all() {
        let tunnel = conn.metadata(|f| by_id.get(&f.tunnel?).copied());
        if let Some(why) = tunnel.and_then(|tunnel| tunnel.termination()) {
            conn.close_by(why.reason, &why.why);
        }
    }
    terminated.iter().for_each(|tunnel| tunnel.end());
}

fn is_not_banned(proven: &AuthenticatedTunnel, trust: &Trust) -> Result<(), Termination> {
    let mut both = [&proven.peer.id, &proven.own].into_iter();
    let Some(id) = both.find(|id| trust.banned.contains(id)) else { return Ok(()) };
    Err(Termination { reason: CloseReason::IdentityBanned, why: format!("{id} is banned").into() })
}

/// Time is not judged here: a chain counts as of the last moment at which it was in time.
fn is_believed(
    proven: &AuthenticatedTunnel,
    trust: &Trust,
    now: SystemTime,
) -> Result<(), Termination> {
    let peer = &proven.peer;
    let at = now.max(peer.not_before).min(peer.not_after);
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let purpose = match proven.direction {
        Direction::Inbound => Purpose::Client,
        Direction::Outbound => Purpose::Server,
    };
    let at = UnixTime::since_unix_epoch(at);
    let Err(error) = verify_svid(&peer.chain, &trust.bundles, at, purpose) else { return Ok(()) };
    let why = format!("the peer's SVID is no longer trusted: {error}").into();
    let reason = match error {
        SvidError::UnknownTrustDomain(_) => CloseReason::TrustDomainRemoved,
        error => TlsError::Svid(error).close_reason(),
    };
    Err(Termination { reason, why })
}

fn is_in_time(peer: &Peer, expiry: PeerExpiry, now: SystemTime) -> Result<(), Termination> {
    let PeerExpiry::Grace(grace) = expiry else { return Ok(()) };
    if now < peer.end() + grace {
        return Ok(());
    }
    let why = format!("the SVID of {} expired more than {grace:?} ago", peer.id);
    Err(Termination { reason: CloseReason::SvidExpired, why: why.into() })
}

#[cfg(test)]
mod tests;
