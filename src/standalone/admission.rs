//! Who may: what the access rules are asked about the TLS peer, and what they say.

use std::{net::SocketAddr, sync::Arc};

use super::{Role, Service, outcome::Outcome};
use crate::{
    identity::{PeerCert, SpiffeId},
    observe::conn::{CloseReason, Direction, Flow, OpenConn, PeerAddr},
};

/// Asks the access rules about the TLS peer.
pub(super) async fn admit(
    service: &Service,
    peer: Option<&Arc<PeerCert>>,
    addr: SocketAddr,
    local: SocketAddr,
    conn: &OpenConn,
) -> Result<(), Outcome> {
    let none = || (CloseReason::NoPeerCertificate, Some("the peer showed no certificate".into()));
    let peer = peer.ok_or_else(none)?;
    let server = service.config.role == Role::Server;
    let own = own_id(service);
    conn.metadata(|f| {
        let (theirs, ours) =
            if server { (&mut f.src, &mut f.dst) } else { (&mut f.dst, &mut f.src) };
        theirs.id.clone_from(&peer.id);
        ours.id.clone_from(&own);
        f.flow_dst = server.then_some(local);
        f.subject = peer.shown_subject();
    });
    let flow = flow(service, peer, addr, local);
    let dry_run = service.access.dry_run(&flow);
    conn.metadata(|f| f.dry_run = (!dry_run.is_empty()).then(|| dry_run.join("; ").into()));
    let policies = service.access.policies();
    let before = policies.map(|policies| policies.rules());
    match service.access.admit(peer, &flow).await {
        Ok(rule) => {
            conn.metadata(|f| f.policy = Some(rule));
            // Policies that were replaced meanwhile have not seen this connection.
            let after = policies.map(|policies| policies.rules());
            let same = before.zip(after).is_none_or(|(was, is)| Arc::ptr_eq(&was, &is));
            if !same && service.judge_again(conn.live()) {
                return Err((CloseReason::PolicyChanged, None));
            }
            Ok(())
        }
        Err(why) => Err((CloseReason::PolicyDenied, Some(why))),
    }
}

/// The rule that admits the TLS peer, or why none does.
pub(super) async fn judged(
    service: &Service,
    peer: &Arc<PeerCert>,
    addr: SocketAddr,
    local: SocketAddr,
) -> Result<Arc<str>, String> {
    service.access.admit(peer, &flow(service, peer, addr, local)).await
}

fn own_id(service: &Service) -> Option<SpiffeId> {
    service.keeper.current().own.as_ref().and_then(|own| own.id.clone())
}

/// What the access rules are asked about.
fn flow(service: &Service, peer: &PeerCert, addr: SocketAddr, local: SocketAddr) -> Flow {
    let own = own_id(service);
    let foreign = match (&peer.id, &own) {
        (Some(peer), Some(own)) => peer.trust_domain() != own.trust_domain(),
        (peer, _) => peer.is_some(),
    };
    Flow {
        direction: Direction::Inbound,
        peer: PeerAddr(addr),
        peer_id: peer.id.clone(),
        foreign,
        dst: local,
    }
}
