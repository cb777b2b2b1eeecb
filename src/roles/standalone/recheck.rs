//! Open connections under new policies: who is denied now, or was admitted by a rule that is no
//! more, is closed. Other changes of a service make another service of it, and the old drains.

use std::{collections::HashMap, sync::Arc};

use super::Service;
use crate::{
    hbone::AuthenticatedTunnel,
    identity::PeerCert,
    net::Direction,
    observe::conn::LiveConn,
    policy::{
        Rules,
        access_control::as_shown,
        admission::{AccessRules, Asked, Decision, Protection, Request, decide},
    },
    proxy::revalidate::{close_refused, peers::AuthenticatedPeer, recheck},
};

impl Service {
    /// Replaces the policies, closes the connections that they deny, and returns how many. Does
    /// nothing for a service without policies.
    pub fn replace_policies(&self, rules: Arc<Rules>) -> usize {
        let Some(policies) = self.access.policies() else { return 0 };
        policies.replace(rules);
        let (open, peers) = (self.telemetry.live.all(), self.authenticated());
        recheck(&open, |conn| {
            let cert = peers.get(&conn.id).map(|peer| &*peer.cert);
            self.has(conn).then(|| self.decided_again(conn, cert)).flatten()
        })
    }

    /// Whether it had to be closed. One that is being admitted meanwhile asks this itself.
    pub(super) fn judge_again(&self, conn: &LiveConn, cert: Option<&PeerCert>) -> bool {
        self.decided_again(conn, cert).is_some_and(|now| close_refused(conn, &now))
    }

    fn decided_again(&self, conn: &LiveConn, cert: Option<&PeerCert>) -> Option<Decision> {
        let policies = self.access.policies()?;
        let (flow, by) = (conn.flow()?, conn.metadata(|f| f.policy.clone())?);
        let own = conn.metadata(|f| f.dst.id.clone());
        let others = cert.map(|cert| as_shown(cert, &flow, own.as_ref())).unwrap_or_default();
        let rules = policies.rules();
        let request = Request {
            flow: &flow,
            as_shown: &others,
            proven: true,
            // Rules of policies are `namespace/name rule N`, those of names are words.
            access: match by.contains('/') {
                true => AccessRules::NoMatch(&"the rule that allowed it was removed"),
                false => AccessRules::Admit(&by),
            },
        };
        let protection = Protection { rules: Some(&rules), strict: false };
        Some(decide(protection, &request).decision(Asked::WhileOpen))
    }

    /// Whether a connection is one of this service.
    pub(super) fn has(&self, conn: &LiveConn) -> bool {
        conn.direction == self.direction()
            && conn.metadata(|f| {
                let names = match conn.direction {
                    Direction::Inbound => &f.dst.names,
                    Direction::Outbound => &f.src.names,
                };
                names.as_ref().is_some_and(|names| Arc::ptr_eq(names, &self.names))
            })
    }

    /// The peers of open connections that have proven who they are, by connection; those of
    /// tunnels too.
    pub(super) fn authenticated(&self) -> HashMap<u64, Arc<AuthenticatedPeer>> {
        let mut peers: HashMap<u64, Arc<AuthenticatedPeer>> = self.trusted_peers.peers().collect();
        // A stream is known by the facts of its tunnel.
        let tunnels = self.trusted_peers.tunnels.open();
        let facts = |tunnel: &Arc<AuthenticatedTunnel>| Arc::as_ptr(&tunnel.peer.tls);
        let tunnels = tunnels.iter().filter_map(|tunnel| {
            Some((facts(tunnel), Arc::new(AuthenticatedPeer::of_tunnel(tunnel)?)))
        });
        let by_facts: HashMap<_, _> = tunnels.collect();
        if by_facts.is_empty() {
            return peers;
        }
        for conn in self.telemetry.live.all() {
            let peer = conn.metadata(|f| by_facts.get(&Arc::as_ptr(f.tls.as_ref()?)).cloned());
            peers.extend(peer.map(|peer| (conn.id, peer)));
        }
        peers
    }

    /// The authenticated peer of one connection.
    pub(super) fn peer_of(&self, conn: &LiveConn) -> Option<Arc<AuthenticatedPeer>> {
        let plain = self.trusted_peers.peers().find(|(id, _)| *id == conn.id);
        if let Some((_, peer)) = plain {
            return Some(peer);
        }
        let facts = conn.metadata(|f| f.tls.clone())?;
        let tunnels = self.trusted_peers.tunnels.open();
        let tunnel = tunnels.iter().find(|tunnel| Arc::ptr_eq(&tunnel.peer.tls, &facts))?;
        AuthenticatedPeer::of_tunnel(tunnel).map(Arc::new)
    }
}
