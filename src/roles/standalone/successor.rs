//! What is open of a service that an edit has replaced: it drains, and is checked against what its
//! replacement trusts and allows. Connections that are no longer trusted or allowed are closed at
//! once.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream};
use tokio::time::sleep;

use super::{Role, Service, outcome::Outcome};
use crate::{
    identity::{BundleSet, PeerCert},
    net::{CloseReason, Flow},
    observe::conn::LiveConn,
    policy::{
        Banned, Rules,
        access_control::Caller,
        admission::{Asked, Decision},
    },
    proxy::revalidate::{
        peers::AuthenticatedPeer,
        verdict::{VerifiedAgain, is_not_banned},
    },
    tls::PeerTrust,
};

/// How often the replacement is checked: whether it trusts or allows others now, or has been
/// replaced itself.
const LOOK: Duration = Duration::from_millis(250);

/// How many connections a Rego policy is asked about at once: fewer than it decides on at once, so
/// that each has all of its time, and others who connect have their turn.
const ASKED_AT_ONCE: usize = 8;

/// What connections were last checked against.
struct HeldTo {
    successor: Arc<Service>,
    rules: Option<Arc<Rules>>,
    banned: Banned,
    trusted: Trusted,
}

impl HeldTo {
    fn now(successor: Arc<Service>) -> Self {
        let rules = successor.access.policies().map(|policies| policies.rules());
        let banned = successor.access.banned();
        let trusted = Trusted::by(&successor);
        Self { successor, rules, banned, trusted }
    }

    fn is(&self, other: &Self) -> bool {
        self.asks_as(other) && self.banned == other.banned && self.trusted == other.trusted
    }

    /// Whether the same is asked of whoever is trusted and not banned.
    fn asks_as(&self, other: &Self) -> bool {
        let same_rules = match (&self.rules, &other.rules) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        Arc::ptr_eq(&self.successor, &other.successor) && same_rules
    }
}

/// What a service trusts at one moment.
#[derive(Eq, PartialEq)]
struct Trusted {
    peers: PeerTrust,
    /// Of tunnels; `None` for a service that has no SVID to make any, whose roots count then.
    tunnels: Option<Arc<BundleSet>>,
}

impl Trusted {
    fn by(service: &Service) -> Self {
        let tunnels = service.trusted_peers.tunnels.trust().map(|trust| trust.bundles);
        let tunnels = tunnels.filter(|bundles| **bundles != BundleSet::default());
        Self { peers: service.store.current().trust.clone(), tunnels }
    }
}

/// The peers of a service that an edit has replaced, as far as its successor trusts others.
struct TrustedBySuccessor {
    peers: Option<VerifiedAgain>,
    tunnels: Option<VerifiedAgain>,
    /// What is pinned is a rule of whom is admitted.
    pins: bool,
}

impl TrustedBySuccessor {
    /// `old` holds its peers itself to what both trust.
    fn new(old: &Service, new: &Service) -> Self {
        let (before, now) = (Trusted::by(old), Trusted::by(new));
        let again = |other: bool, trust: &PeerTrust| {
            (other && !new.asks_for_none()).then(|| VerifiedAgain::by(trust, new.peers_are()))
        };
        let pins = matches!(now.peers, PeerTrust::Pinned(_));
        // Tunnels are never pinned: whoever came by one has not been held to what is pinned now.
        let bundles = now.tunnels.clone().filter(|_| !pins);
        let of_tunnels = bundles.map_or(now.peers.clone(), PeerTrust::Spiffe);
        Self {
            peers: again(before.peers != now.peers, &now.peers),
            tunnels: again(pins || before.tunnels != now.tunnels, &of_tunnels),
            pins,
        }
    }

    async fn judge(&mut self, peer: &Arc<AuthenticatedPeer>) -> Result<(), No> {
        let again = if peer.by_tunnel { &mut self.tunnels } else { &mut self.peers };
        let Some(again) = again else { return Ok(()) };
        again.trusts(peer).await.map_err(|(reason, why)| match self.pins {
            true => No::refused(reason, why),
            false => No::Untrusted(reason, why),
        })
    }
}

impl Service {
    /// An edit has put these in the place of all services, of which this one drains: the successor
    /// is that of the same name, or else that at the same address.
    pub fn replaced_by_one_of<'a>(&self, services: impl Iterator<Item = &'a Arc<Self>> + Clone) {
        let mut services = services.filter(|new| new.config.role == self.config.role);
        let mut at_address = services.clone();
        let by_name = services.find(|new| new.config.name == self.config.name);
        let successor =
            by_name.or_else(|| at_address.find(|new| new.config.listen == self.config.listen));
        self.successor.store(successor.cloned());
    }

    /// The service that is in the place of this one now.
    fn latest(&self) -> Option<Arc<Self>> {
        let mut latest = self.successor.load_full()?;
        while let Some(next) = latest.successor.load_full() {
            latest = next;
        }
        Some(latest)
    }

    /// Closes the connections that the service's replacement does not allow, now and whenever its
    /// access rules change. Returns only if there is no replacement.
    pub async fn follow_successor(self: Arc<Self>) {
        let mut held_to: Option<HeldTo> = None;
        let mut asking: Option<BoxFuture<'static, ()>> = None;
        while let Some(latest) = self.latest() {
            // Those in between are not kept for us.
            self.successor.store(Some(Arc::clone(&latest)));
            let now = HeldTo::now(latest);
            if !held_to.as_ref().is_some_and(|before| before.is(&now)) {
                let unsettled = beside(&mut asking, self.hold_to(&now.successor)).await;
                // Bans and roots change nothing of what is asked about the others.
                if !held_to.as_ref().is_some_and(|before| before.asks_as(&now)) {
                    let (this, successor) = (Arc::clone(&self), Arc::clone(&now.successor));
                    asking = Some(Box::pin(this.ask_about(unsettled, successor)));
                }
                held_to = Some(now);
            }
            beside(&mut asking, sleep(LOOK)).await;
        }
    }

    /// Closes whom the successor bars: first by what takes no time (bans, names and Istio
    /// policies), then whose certificate it does not trust. Returns the others that its Rego policy
    /// is to be asked about.
    async fn hold_to(&self, successor: &Self) -> Vec<Unsettled> {
        // In this order: whatever is open has its peer among those.
        let (open, peers) = (self.telemetry.live.all(), self.authenticated());
        let (mut closed, mut stay) = (0, Vec::new());
        for conn in open {
            let ours = self.has(&conn) && conn.was_cut().is_none();
            let peer = peers.get(&conn.id);
            // One that shakes hands still asks when that is done.
            let proven = match peer {
                Some(_) => true,
                None => self.asks_for_none() && conn.metadata(|f| f.tls.is_some()),
            };
            if !ours || !proven {
                continue;
            }
            match successor.admits_at_once(&conn, peer, Asked::WhileOpen) {
                Ok(settled) => stay.extend(peer.map(|peer| (conn, Arc::clone(peer), settled))),
                Err(no) => closed += no.close(&conn),
            }
        }
        let (mut trusted, mut unsettled) = (TrustedBySuccessor::new(self, successor), Vec::new());
        for (conn, peer, settled) in stay {
            match (trusted.judge(&peer).await, settled) {
                (Err(no), _) => closed += no.close(&conn),
                (Ok(()), Settled::Asks) => unsettled.push((conn, peer)),
                (Ok(()), Settled::Admitted) => {}
            }
        }
        self.tell_barred(closed);
        unsettled
    }

    /// Closes those whom the Rego policy of the successor does not admit.
    async fn ask_about(self: Arc<Self>, unsettled: Vec<Unsettled>, successor: Arc<Self>) {
        let asked = stream::iter(unsettled).map(|(conn, peer)| {
            let successor = Arc::clone(&successor);
            async move {
                if conn.was_cut().is_some() {
                    return 0;
                }
                let admitted = successor.decides(&conn, &peer, Asked::WhileOpen).await;
                admitted.map_or_else(|no| no.close(&conn), |()| 0)
            }
        });
        let closed = asked.buffer_unordered(ASKED_AT_ONCE).collect::<Vec<_>>().await;
        self.tell_barred(closed.into_iter().sum());
    }

    fn tell_barred(&self, closed: usize) {
        if closed > 0 {
            let service = self.config.name.as_str();
            tracing::info!(
                service,
                connections = closed,
                "connections closed: the changed service no longer allows them"
            );
        }
    }

    /// `Ok` unless an edit has replaced this service meanwhile: then whether the connection that it
    /// has just admitted may stay under the service in its place. Its peer is entered among those
    /// that are authenticated by then.
    pub(super) async fn not_barred_by_successor(&self, conn: &LiveConn) -> Result<(), Outcome> {
        let Some(successor) = self.latest() else { return Ok(()) };
        let peer = self.peer_of(conn);
        let mut trusted = TrustedBySuccessor::new(self, &successor);
        let asked = Asked::AtOpening;
        let admitted = successor.admits(conn, peer.as_ref(), &mut trusted, asked).await;
        admitted.map_err(|no| match no {
            No::Untrusted(reason, why) => (reason, Some(why)),
            No::Refused(decision) => {
                conn.metadata(|f| decision.record(f, asked));
                let (reason, why) = decision.refused.unzip();
                (reason.unwrap_or(CloseReason::PolicyDenied), why)
            }
        })
    }

    /// Whether this service admits a peer that came to its predecessor.
    async fn admits(
        &self,
        conn: &LiveConn,
        peer: Option<&Arc<AuthenticatedPeer>>,
        trusted: &mut TrustedBySuccessor,
        asked: Asked,
    ) -> Result<(), No> {
        let settled = self.admits_at_once(conn, peer, asked)?;
        let Some(peer) = peer else { return Ok(()) };
        trusted.judge(peer).await?;
        match settled {
            Settled::Admitted => Ok(()),
            Settled::Asks => self.decides(conn, peer, asked).await,
        }
    }

    /// Whether this service bars a peer by what takes no time: bans, names and Istio policies.
    fn admits_at_once(
        &self,
        conn: &LiveConn,
        peer: Option<&Arc<AuthenticatedPeer>>,
        asked: Asked,
    ) -> Result<Settled, No> {
        let own = self.own_id();
        if let Some(peer) = peer {
            is_not_banned(&peer.cert, own.as_ref(), &self.access.banned())
                .map_err(|(reason, why)| No::Untrusted(reason, why))?;
        }
        let anybody = match self.config.role {
            Role::Server => self.asks_for_none(),
            Role::Client => self.config.access.is_empty(),
        };
        if anybody {
            return Ok(Settled::Admitted);
        }
        let Some(peer) = peer.map(|peer| &peer.cert) else {
            let why = "the peer presented no certificate".to_owned();
            return Err(No::refused(CloseReason::NoPeerCertificate, why));
        };
        // Who is about to be admitted asks when that is done.
        let Some(flow) = self.flow_of(conn, peer) else { return Ok(Settled::Admitted) };
        let caller = Caller { peer, flow: &flow, own: own.as_ref() };
        match self.access.decide_at_once(&caller, asked) {
            Some(decision) => No::of(decision).map(|()| Settled::Admitted),
            None => Ok(Settled::Asks),
        }
    }

    /// What the Rego policy says of a peer about whom all else says nothing.
    async fn decides(
        &self,
        conn: &LiveConn,
        peer: &AuthenticatedPeer,
        asked: Asked,
    ) -> Result<(), No> {
        let Some(flow) = self.flow_of(conn, &peer.cert) else { return Ok(()) };
        let own = self.own_id();
        let caller = Caller { peer: &peer.cert, flow: &flow, own: own.as_ref() };
        No::of(self.access.decide(&caller, asked).await)
    }

    /// Whether it is a server that asks its callers for no certificate.
    fn asks_for_none(&self) -> bool {
        self.config.role == Role::Server && !self.config.tls.authenticate
    }

    fn flow_of(&self, conn: &LiveConn, peer: &PeerCert) -> Option<Flow> {
        match self.config.role {
            Role::Server => conn.flow(),
            Role::Client => {
                let dst = conn.metadata(|f| f.dst_addr)?;
                Some(super::admission::flow(peer, self.own_id().as_ref(), conn.peer.0, dst))
            }
        }
    }
}

/// Does `work`, and lets the questions to a policy that are under way go on meanwhile.
async fn beside<T>(
    asking: &mut Option<BoxFuture<'static, ()>>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    if let Some(asked) = asking {
        tokio::select! {
            done = &mut work => return done,
            () = asked => *asking = None,
        }
    }
    work.await
}

/// A connection that the Rego policy is to be asked about, and its peer.
type Unsettled = (Arc<LiveConn>, Arc<AuthenticatedPeer>);

/// What is known at once of a peer that is not refused.
enum Settled {
    Admitted,
    /// The Rego policy has the last word.
    Asks,
}

/// Why a peer may not stay.
enum No {
    /// It is banned, or its certificate no longer trusted.
    Untrusted(CloseReason, String),
    /// It is not one of those that are admitted.
    Refused(Decision),
}

impl No {
    fn of(decision: Decision) -> Result<(), Self> {
        if decision.refused.is_some() { Err(Self::Refused(decision)) } else { Ok(()) }
    }

    fn refused(reason: CloseReason, why: String) -> Self {
        Self::Refused(Decision { rule: None, dry_run: None, refused: Some((reason, why)) })
    }

    /// Closes an open connection: 1, for it is counted.
    fn close(self, conn: &LiveConn) -> usize {
        match self {
            Self::Untrusted(reason, why) => drop(conn.close_by(reason, &why)),
            Self::Refused(decision) => {
                conn.metadata(|f| decision.record(f, Asked::WhileOpen));
                conn.cut(CloseReason::PolicyChanged);
            }
        }
        1
    }
}
