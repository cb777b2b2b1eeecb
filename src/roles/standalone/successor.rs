//! What is open of a service that an edit has replaced: it drains, and is held to whom the service
//! in its place admits. Who is admitted no longer is closed at once.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream};
use tokio::time::{sleep, timeout};

use super::{
    Role, Service,
    outcome::Outcome,
    revalidate::{is_not_banned, is_pinned},
};
use crate::{
    identity::PeerCert,
    net::{CloseReason, Flow},
    observe::conn::LiveConn,
    policy::{
        Banned, Rules,
        access_control::Caller,
        admission::{Asked, Decision},
    },
};

/// How often is looked whether the successor admits others now, or has been replaced itself.
const LOOK: Duration = Duration::from_millis(250);

/// How many connections a Rego policy is asked about at once: fewer than it decides on at once, so
/// that each has all of its time, and others who connect have their turn.
const ASKED_AT_ONCE: usize = 8;

/// What connections were held to when they were looked at last.
struct HeldTo {
    successor: Arc<Service>,
    rules: Option<Arc<Rules>>,
    banned: Banned,
}

impl HeldTo {
    fn now(successor: Arc<Service>) -> Self {
        let rules = successor.access.policies().map(|policies| policies.rules());
        let banned = successor.access.banned();
        Self { successor, rules, banned }
    }

    fn is(&self, other: &Self) -> bool {
        self.asks_as(other) && self.banned == other.banned
    }

    /// Whether the same is asked of whoever is not banned.
    fn asks_as(&self, other: &Self) -> bool {
        let same_rules = match (&self.rules, &other.rules) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        Arc::ptr_eq(&self.successor, &other.successor) && same_rules
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

    /// Closes connections whom the service in the place of this one does not admit, now and
    /// whenever that admits others. Does not return if there is one.
    pub async fn follow_successor(self: Arc<Self>) {
        let mut held_to: Option<HeldTo> = None;
        let mut asking: Option<BoxFuture<'static, ()>> = None;
        while let Some(latest) = self.latest() {
            // Those in between are not kept for us.
            self.successor.store(Some(Arc::clone(&latest)));
            let now = HeldTo::now(latest);
            if !held_to.as_ref().is_some_and(|before| before.is(&now)) {
                let unsettled = self.hold_to(&now.successor);
                // Bans change nothing of what is asked about the others.
                if !held_to.as_ref().is_some_and(|before| before.asks_as(&now)) {
                    let (this, successor) = (Arc::clone(&self), Arc::clone(&now.successor));
                    asking = Some(Box::pin(this.ask_about(unsettled, successor)));
                }
                held_to = Some(now);
            }
            let answered = match &mut asking {
                Some(asked) => timeout(LOOK, asked).await.is_ok(),
                None => {
                    sleep(LOOK).await;
                    false
                }
            };
            if answered {
                asking = None;
            }
        }
    }

    /// Closes whom the successor bars by what takes no time: bans, pins, names and Istio policies.
    /// Returns the others that its Rego policy is to be asked about.
    fn hold_to(&self, successor: &Self) -> Vec<Unsettled> {
        // In this order: whatever is open has its certificate among those.
        let (open, mut certs) = (self.telemetry.live.all(), self.certificates());
        let (mut closed, mut unsettled) = (0, Vec::new());
        for conn in open {
            let ours = self.has(&conn) && conn.was_cut().is_none();
            let cert = certs.remove(&conn.id);
            // One that shakes hands still asks when that is done.
            let proven = match cert {
                Some(_) => true,
                None => self.asks_for_none() && conn.metadata(|f| f.tls.is_some()),
            };
            if !ours || !proven {
                continue;
            }
            match successor.admits_at_once(&conn, cert.as_ref(), Asked::WhileOpen) {
                Ok(Settled::Admitted) => {}
                Ok(Settled::Asks) => unsettled.extend(cert.map(|cert| (conn, cert))),
                Err(no) => closed += no.close(&conn),
            }
        }
        self.tell_barred(closed);
        unsettled
    }

    /// Closes those whom the Rego policy of the successor does not admit.
    async fn ask_about(self: Arc<Self>, unsettled: Vec<Unsettled>, successor: Arc<Self>) {
        let asked = stream::iter(unsettled).map(|(conn, cert)| {
            let successor = Arc::clone(&successor);
            async move {
                if conn.was_cut().is_some() {
                    return 0;
                }
                let admitted = successor.decides(&conn, &cert, Asked::WhileOpen).await;
                admitted.map_or_else(|no| no.close(&conn), |()| 0)
            }
        });
        let closed = asked.buffer_unordered(ASKED_AT_ONCE).collect::<Vec<_>>().await;
        self.tell_barred(closed.into_iter().sum());
    }

    fn tell_barred(&self, closed: usize) {
        if closed > 0 {
            let service = self.config.name.as_str();
            tracing::info!(service, connections = closed, "closed: the edited service bars them");
        }
    }

    /// Whether somebody whom this service has just admitted may stay under the one that has taken
    /// its place meanwhile, if one has.
    pub(super) async fn admitted_by_successor(
        &self,
        conn: &LiveConn,
        cert: Option<&Arc<PeerCert>>,
    ) -> Result<(), Outcome> {
        let Some(successor) = self.latest() else { return Ok(()) };
        let admitted = successor.admits(conn, cert, Asked::AtOpening).await;
        admitted.map_err(|no| match no {
            No::Banned(why) => (CloseReason::IdentityBanned, Some(why)),
            No::Refused(decision) => {
                conn.metadata(|f| decision.record(f, Asked::AtOpening));
                let (reason, why) = decision.refused.unzip();
                (reason.unwrap_or(CloseReason::PolicyDenied), why)
            }
        })
    }

    /// The same of whoever answered a stream: its certificate is that of its tunnel.
    pub(super) async fn stream_admitted_by_successor(
        &self,
        conn: &LiveConn,
    ) -> Result<(), Outcome> {
        if self.successor.load().is_none() {
            return Ok(());
        }
        let cert = self.certificates().remove(&conn.id);
        self.admitted_by_successor(conn, cert.as_ref()).await
    }

    /// Whether this service admits somebody who came to its predecessor.
    async fn admits(
        &self,
        conn: &LiveConn,
        cert: Option<&Arc<PeerCert>>,
        asked: Asked,
    ) -> Result<(), No> {
        match (self.admits_at_once(conn, cert, asked)?, cert) {
            (Settled::Asks, Some(cert)) => self.decides(conn, cert, asked).await,
            _ => Ok(()),
        }
    }

    /// The same, as far as that takes no time.
    fn admits_at_once(
        &self,
        conn: &LiveConn,
        cert: Option<&Arc<PeerCert>>,
        asked: Asked,
    ) -> Result<Settled, No> {
        let refused = |reason, why| {
            No::Refused(Decision { rule: None, dry_run: None, refused: Some((reason, why)) })
        };
        let own = self.own_id();
        if let Some(cert) = cert {
            let judged = is_not_banned(cert, own.as_ref(), &self.access.banned());
            judged.map_err(|(_, why)| No::Banned(why))?;
            is_pinned(cert, self).map_err(|(reason, why)| refused(reason, why))?;
        }
        let anybody = match self.config.role {
            Role::Server => self.asks_for_none(),
            Role::Client => self.config.access.is_empty(),
        };
        if anybody {
            return Ok(Settled::Admitted);
        }
        let Some(peer) = cert else {
            let why = "the peer showed no certificate".to_owned();
            return Err(refused(CloseReason::NoPeerCertificate, why));
        };
        // Who is about to be admitted asks when that is done.
        let Some(flow) = self.flow_of(conn, peer) else { return Ok(Settled::Admitted) };
        let caller = Caller { peer, flow: &flow, own: own.as_ref() };
        match self.access.decide_at_once(&caller, asked) {
            Some(decision) => No::of(decision).map(|()| Settled::Admitted),
            None => Ok(Settled::Asks),
        }
    }

    /// What the Rego policy says of somebody about whom all else says nothing.
    async fn decides(&self, conn: &LiveConn, peer: &Arc<PeerCert>, asked: Asked) -> Result<(), No> {
        let Some(flow) = self.flow_of(conn, peer) else { return Ok(()) };
        let own = self.own_id();
        let caller = Caller { peer, flow: &flow, own: own.as_ref() };
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

/// A connection that the Rego policy is to be asked about, and what its peer showed.
type Unsettled = (Arc<LiveConn>, Arc<PeerCert>);

/// What is known of somebody at once who is not refused.
enum Settled {
    Admitted,
    /// The Rego policy has the last word.
    Asks,
}

/// Why somebody may not stay.
enum No {
    Banned(String),
    Refused(Decision),
}

impl No {
    fn of(decision: Decision) -> Result<(), Self> {
        if decision.refused.is_some() { Err(Self::Refused(decision)) } else { Ok(()) }
    }

    /// Closes an open connection: 1, for it is counted.
    fn close(self, conn: &LiveConn) -> usize {
        match self {
            Self::Banned(why) => drop(conn.close_by(CloseReason::IdentityBanned, &why)),
            Self::Refused(decision) => {
                conn.metadata(|f| decision.record(f, Asked::WhileOpen));
                conn.cut(CloseReason::PolicyChanged);
            }
        }
        1
    }
}
