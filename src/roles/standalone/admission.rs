//! Who may: what the access rules are asked about the TLS peer, and what they say.

use std::{net::SocketAddr, sync::Arc};

use super::{Role, Service, outcome::Outcome};
use crate::{
    identity::{PeerCert, SpiffeId},
    net::{CloseReason, Direction, Flow, PeerAddr},
    observe::conn::OpenConn,
    policy::{access_control::Caller, admission::Asked},
};

/// Asks the access rules about the TLS peer.
pub(super) async fn admit(
    service: &Service,
    peer: Option<&Arc<PeerCert>>,
    addr: SocketAddr,
    local: SocketAddr,
    conn: &OpenConn,
) -> Result<(), Outcome> {
    let none =
        || (CloseReason::NoPeerCertificate, Some("the peer presented no certificate".into()));
    let peer = peer.ok_or_else(none)?;
    let server = service.config.role == Role::Server;
    let own = service.own_id();
    conn.metadata(|f| {
        let (theirs, ours) =
            if server { (&mut f.src, &mut f.dst) } else { (&mut f.dst, &mut f.src) };
        theirs.id.clone_from(&peer.id);
        ours.id.clone_from(&own);
        f.flow_dst = server.then_some(local);
        f.subject = peer.shown_subject();
    });
    let flow = flow(peer, own.as_ref(), addr, local);
    let policies = service.access.policies();
    let before = policies.map(|policies| policies.rules());
    let caller = Caller { peer, flow: &flow, own: own.as_ref() };
    let decision = service.access.decide(&caller, Asked::AtOpening).await;
    conn.metadata(|f| decision.record(f, Asked::AtOpening));
    decision.allowed().map_err(|(reason, why)| (reason, Some(why)))?;
    // Policies that were replaced meanwhile have not seen this connection.
    let after = policies.map(|policies| policies.rules());
    let same = before.zip(after).is_none_or(|(was, is)| Arc::ptr_eq(&was, &is));
    if !same && service.judge_again(conn.live(), Some(peer)) {
        return Err((CloseReason::PolicyChanged, None));
    }
    service.not_barred_by_successor(conn.live()).await
}

/// Why the access rules do not admit the TLS peer, if they do not.
pub(super) async fn judged(
    service: &Service,
    peer: &Arc<PeerCert>,
    addr: SocketAddr,
    local: SocketAddr,
) -> Result<(), String> {
    let own = service.own_id();
    let flow = flow(peer, own.as_ref(), addr, local);
    let caller = Caller { peer, flow: &flow, own: own.as_ref() };
    let decision = service.access.decide(&caller, Asked::AtOpening).await;
    decision.allowed().map_err(|(_, why)| why)
}

impl Service {
    /// Who it is.
    pub(super) fn own_id(&self) -> Option<SpiffeId> {
        self.store.current().own.as_ref().and_then(|own| own.id.clone())
    }
}

/// What the access rules are asked about.
pub(super) fn flow(
    peer: &PeerCert,
    own: Option<&SpiffeId>,
    addr: SocketAddr,
    local: SocketAddr,
) -> Flow {
    let foreign = match (&peer.id, own) {
        (Some(peer), Some(own)) => peer.trust_domain() != own.trust_domain(),
        (peer, _) => peer.is_some(),
    };
    Flow {
        direction: Direction::Inbound,
        peer: PeerAddr(addr),
        peer_id: peer.id.clone(),
        foreign,
        other_principals: Vec::new(),
        dst: local,
    }
}
