use std::time::{Duration, SystemTime};

use super::*;
use crate::{
    authority::EmbeddedCa,
    hbone::{PeerExpiry, Trust, TunnelRegistry},
    identity::BundleSet,
    observe::conn::TlsFacts,
    tls::Peer,
};

/// Whether its tunnel is withdrawn or its caller has run out: the next stream is told.
#[test]
fn a_caller_that_is_proven_no_more_begins_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ca = EmbeddedCa::open(dir.path(), &"td".parse().unwrap(), Duration::from_secs(60));
    let svid = ca.unwrap().issue(&"spiffe://td/host/a".parse().unwrap()).unwrap();
    let (version, group, cipher) = ("", "", "");
    let facts = TlsFacts { version, group, cipher, mutual: true, path: None };
    let live = TunnelRegistry::default();
    let proven = |not_after: SystemTime| {
        let peer = Peer {
            id: svid.id.clone(),
            not_before: svid.not_before,
            not_after,
            chain: svid.chain.clone().into(),
            tls: Arc::new(facts.clone()),
        };
        let (own, bundles) = (svid.id.clone(), Arc::<BundleSet>::default());
        live.admit(Direction::Inbound, own, peer, &bundles).unwrap()
    };
    let told = |proven: &AuthenticatedTunnel| still_trusted(proven).err().map(|no| no.0);
    let now = SystemTime::now();
    let (good, late) = (proven(svid.not_after), proven(now - Duration::from_secs(5)));
    assert_eq!(told(&good), None);
    assert_eq!(told(&late), Some(CloseReason::SvidExpired));
    assert_eq!(live.recheck(&Trust::default(), |_| true, PeerExpiry::Keep, now).len(), 2);
    assert_eq!(told(&good), Some(CloseReason::TrustDomainRemoved));
}

#[test]
fn who_may_come_back_is_turned_away_and_others_hear_a_status() {
    for (reason, answer) in [
        (CloseReason::Overloaded, None),
        (CloseReason::SvidExpired, None),
        (CloseReason::NoIdentity, None),
        (CloseReason::ConnectFailure, Some(503)),
        (CloseReason::ConnectTimeout, Some(503)),
        (CloseReason::Internal, Some(503)),
        (CloseReason::PolicyDenied, Some(401)),
        (CloseReason::PolicyChanged, Some(401)),
        (CloseReason::PlaintextRefused, Some(401)),
        (CloseReason::NoPeerCertificate, Some(401)),
        (CloseReason::SvidRevoked, Some(401)),
        (CloseReason::IdentityBanned, Some(401)),
        (CloseReason::TrustDomainRemoved, Some(401)),
    ] {
        let said = match ConnectReply::to(reason) {
            ConnectReply::TurnedAway => None,
            ConnectReply::Status(status) => Some(status.as_u16()),
        };
        assert_eq!(said, answer, "{reason}");
    }
}
