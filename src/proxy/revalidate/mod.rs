//! Open connections are checked against what is trusted and allowed now, not what was when they
//! opened: when roots, bundles, CRLs or bans change, and when peers' certificates run out, exactly
//! those concerned are closed ([`revalidate`]); when policies change, those that are refused now
//! ([`recheck`]).
//!
//! Tunnels stand in [`TunnelRegistry`], one entry per tunnel; connections of plain TLS in [`peers`],
//! one entry each. Each is entered before it is judged by what holds now: a change that comes in
//! between is seen there, or by the pass that follows the change.

pub mod peers;
pub mod verdict;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use self::{
    peers::{Entry, Table},
    verdict::{Verdict, VerifiedAgain, is_in_time, is_not_banned},
};
use crate::{
    hbone::{AuthenticatedTunnel, PeerExpiry, Termination, TunnelRegistry, close_terminated},
    identity::{PeerCert, Purpose, SpiffeId, TrustDomain},
    net::Direction,
    observe::{Telemetry, conn::LiveConn},
    policy::{
        Banned,
        admission::{Asked, Decision},
    },
    tls::PeerTrust,
};

/// How often peers' certificates are looked at; the clock may be set meanwhile.
const LOOK: Duration = Duration::from_millis(250);

/// Whose certificates are verified again, as what they were verified against has changed.
pub enum ChangedTrust {
    /// Those of everybody, or of nobody.
    All(bool),
    /// Those of these trust domains.
    Domains(BTreeSet<TrustDomain>),
}

impl ChangedTrust {
    /// Whether somebody is among those.
    #[must_use]
    pub fn concerns(&self, id: &SpiffeId) -> bool {
        match self {
            Self::All(all) => *all,
            Self::Domains(domains) => domains.contains(id.trust_domain()),
        }
    }
}

/// What connections of plain TLS are checked against.
pub struct PlainTls<'a> {
    /// Those that are open.
    pub peers: &'a Table,
    /// What peers' certificates are verified against.
    pub trust: &'a PeerTrust,
    /// What peers use their certificates for.
    pub purpose: Purpose,
    /// Who we are: that may be banned too.
    pub own: Option<&'a SpiffeId>,
    /// Who may not be there, whatever they show.
    pub banned: Banned,
}

/// A role, as far as its open connections rest on peers' certificates.
pub trait Trusting: Send + Sync {
    /// Takes what is trusted from now on, and says whose certificates must be verified again.
    fn refresh(&mut self) -> ChangedTrust;

    /// Waits until [`Trusting::refresh`] has something to take. Cancel safe.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;

    /// The open tunnels.
    fn tunnels(&self) -> &TunnelRegistry;

    /// The open connections of plain TLS, of a role that has such.
    fn plain_tls(&self) -> Option<PlainTls<'_>>;

    /// What happens to those whose peer's certificate has expired.
    fn expiry(&self) -> PeerExpiry;

    /// Whether something may be due without a change, beside peers' certificates.
    fn has_reminders(&self) -> bool;

    /// Records and counters.
    fn telemetry(&self) -> &Telemetry;

    /// Says that a tunnel was closed.
    fn log_tunnel(&self, tunnel: &AuthenticatedTunnel, why: &Termination);

    /// Says that a connection of plain TLS was closed.
    fn log_peer(&self, peer: &PeerCert, why: &Verdict);

    /// What else follows, once those concerned are closed.
    fn settle(&mut self, changed: &ChangedTrust);
}

/// Holds the open connections of a role to what is trusted. Never returns.
pub async fn revalidate(mut role: impl Trusting) {
    let looks = role.expiry() != PeerExpiry::Keep || role.has_reminders();
    let mut look = tokio::time::interval(LOOK);
    loop {
        let changed = role.refresh();
        close_tunnels(&role, &changed);
        if let Some(plain) = role.plain_tls() {
            close_plain(&role, &plain, &changed).await;
        }
        role.settle(&changed);
        tokio::select! {
            () = role.changed() => {}
            _ = look.tick(), if looks => {}
        }
    }
}

fn close_tunnels(role: &impl Trusting, changed: &ChangedTrust) {
    let Some(trust) = role.tunnels().trust() else { return };
    let verify = |id: &SpiffeId| changed.concerns(id);
    let terminated = role.tunnels().recheck(&trust, verify, role.expiry(), SystemTime::now());
    close_terminated(&terminated, &role.telemetry().live);
    for tunnel in &terminated {
        let Some(why) = tunnel.termination() else { continue };
        role.telemetry().metrics.tunnels.distrusted(tunnel.direction, why.reason);
        role.log_tunnel(tunnel, why);
    }
}

async fn close_plain(role: &impl Trusting, plain: &PlainTls<'_>, changed: &ChangedTrust) {
    let open = plain.peers.all();
    if open.is_empty() {
        return;
    }
    let (expiry, now) = (role.expiry(), SystemTime::now());
    let close = |entry: &Entry, why: Verdict| {
        if entry.conn.close_by(why.0, &why.1) {
            role.log_peer(&entry.peer.cert, &why);
        }
    };
    // What takes no time goes first, so that no chain of another delays it.
    for entry in &open {
        let judged = is_not_banned(&entry.peer.cert, plain.own, &plain.banned)
            .and_then(|()| is_in_time(&entry.peer.cert, expiry, now));
        if let Err(why) = judged {
            close(entry, why);
        }
    }
    if matches!(changed, ChangedTrust::All(false)) {
        return;
    }
    let mut again = VerifiedAgain::by(plain.trust, plain.purpose);
    for entry in &open {
        if let Err(why) = again.trusts(&entry.peer).await {
            close(entry, why);
        }
    }
}

/// Asks the current policies about those of `open` that are inbound, and closes those that they
/// refuse; returns how many. `decide` has nothing to say about connections that the change does not
/// concern. One that opens meanwhile is in the table before it asks by itself: one of the two
/// judges it.
pub fn recheck(
    open: &[Arc<LiveConn>],
    decide: impl Fn(&Arc<LiveConn>) -> Option<Decision>,
) -> usize {
    let inbound = |conn: &&Arc<LiveConn>| conn.direction == Direction::Inbound;
    let closed = |conn: &&Arc<LiveConn>| decide(conn).is_some_and(|now| close_refused(conn, &now));
    open.iter().filter(inbound).filter(closed).count()
}

/// Closes an open connection if that is what was decided, and says in its record why; whether it
/// was.
pub fn close_refused(conn: &LiveConn, decision: &Decision) -> bool {
    let Some((reason, _)) = &decision.refused else { return false };
    conn.metadata(|f| decision.record(f, Asked::WhileOpen));
    conn.cut(*reason);
    true
}
