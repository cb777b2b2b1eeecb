use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair, KeyUsagePurpose as Ku,
    RevokedCertParams, SanType,
};

use super::*;
use crate::{
    identity::{TrustBundle, parse_leaf},
    observe::conn::TlsFacts,
};

/// A root of a trust domain, and peers with its SVIDs.
struct Domain {
    name: &'static str,
    issuer: Issuer<'static, KeyPair>,
    bundle: TrustBundle,
}

impl Domain {
    fn new(name: &'static str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![Ku::KeyCertSign, Ku::CrlSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        let bundle = TrustBundle::new(name.parse().unwrap(), vec![root]);
        Self { name, issuer: Issuer::new(params, key), bundle }
    }

    fn peer(&self, who: &str) -> Peer {
        self.peer_for(who, vec![])
    }

    fn peer_for(&self, who: &str, purposes: Vec<Eku>) -> Peer {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let now = time::OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - HOUR, now + HOUR);
        let uri = format!("spiffe://{}/{who}", self.name);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![Ku::DigitalSignature];
        params.extended_key_usages = purposes;
        let cert = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let leaf = parse_leaf(&cert).unwrap();
        Peer {
            id: leaf.id,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            chain: [cert].into(),
            tls: Arc::new(TlsFacts {
                version: "",
                group: "",
                cipher: "",
                mutual: true,
                path: None,
            }),
        }
    }

    fn revoking(&self, peer: &Peer) -> TrustBundle {
        let serial = parse_leaf(&peer.chain[0]).unwrap().serial;
        let bytes = (0..serial.len() / 2).map(|n| u8::from_str_radix(&serial[2 * n..][..2], 16));
        let now = time::OffsetDateTime::now_utc();
        let revoked = RevokedCertParams {
            serial_number: bytes.collect::<Result<Vec<_>, _>>().unwrap().into(),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + HOUR,
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let crl = params.signed_by(&self.issuer).unwrap().der().clone();
        TrustBundle { crls: vec![crl], ..self.bundle.clone() }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn set(bundles: &[&TrustBundle]) -> Arc<BundleSet> {
    Arc::new(bundles.iter().map(|b| (*b).clone()).collect())
}

fn own() -> SpiffeId {
    "spiffe://td/own".parse().unwrap()
}

/// The tunnels of the callers `a`, `b` and the callee `c` of one domain, and `d` of another.
struct Open {
    td: Domain,
    other: Domain,
    live: TunnelRegistry,
    held: Vec<Arc<AuthenticatedTunnel>>,
}

fn open() -> Open {
    let (td, other) = (Domain::new("td"), Domain::new("other"));
    let bundles = set(&[&td.bundle, &other.bundle]);
    let live = TunnelRegistry::new(watch::channel(Arc::clone(&bundles)).1, None);
    let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
    let peers = [
        (inbound, td.peer("a")),
        (inbound, td.peer("b")),
        (outbound, td.peer("c")),
        (inbound, other.peer("d")),
        (outbound, other.peer("e")),
    ];
    let admit = |(direction, peer)| live.admit(direction, own(), peer, &bundles).unwrap();
    let held = peers.into_iter().map(admit).collect();
    Open { td, other, live, held }
}

impl Open {
    /// The tunnels that a re-check closes, with the reason.
    fn condemned(&self, trust: &Trust, expiry: PeerExpiry, now: SystemTime) -> Vec<String> {
        let mut out: Vec<_> = self
            .live
            .recheck(trust, |_| true, expiry, now)
            .iter()
            .map(|p| format!("{} {}", p.peer.id.path(), p.termination().unwrap().reason))
            .collect();
        out.sort();
        out
    }

    fn with(&self, bundles: &[&TrustBundle]) -> Vec<String> {
        let trust = Trust { bundles: set(bundles), ..Trust::default() };
        self.condemned(&trust, PeerExpiry::Keep, SystemTime::now())
    }
}

#[test]
fn exactly_those_concerned_are_condemned() {
    let all = open();
    assert!(all.with(&[&all.td.bundle, &all.other.bundle]).is_empty());
    let revoked = all.td.revoking(&all.held[1].peer);
    assert_eq!(all.with(&[&revoked, &all.other.bundle]), ["/b svid_revoked"]);
    let removed = ["/d trust_domain_removed", "/e trust_domain_removed"];
    assert_eq!(all.with(&[&revoked]), removed, "both ways, and b is not told twice");
    let other_root = TrustBundle { authorities: vec![], ..all.td.bundle.clone() };
    assert_eq!(all.with(&[&other_root]), ["/a untrusted_svid", "/c untrusted_svid"]);
}

/// A callee whose SVID is for servers only is no worse for that when bundles change.
#[test]
fn each_end_is_judged_again_as_what_it_was() {
    let td = Domain::new("td");
    let bundles = set(&[&td.bundle]);
    let live = TunnelRegistry::new(watch::channel(Arc::clone(&bundles)).1, None);
    let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
    let (server, client) = (vec![Eku::ServerAuth], vec![Eku::ClientAuth]);
    let held: Vec<_> = [
        (outbound, td.peer_for("callee", server.clone())),
        (inbound, td.peer_for("caller", client.clone())),
        (outbound, td.peer_for("no-server", client)),
        (inbound, td.peer_for("no-client", server)),
    ]
    .into_iter()
    .map(|(direction, peer)| live.admit(direction, own(), peer, &bundles).unwrap())
    .collect();
    let open = Open { td, other: Domain::new("other"), live, held };
    let faults = open.with(&[&open.td.bundle]);
    let whom: Vec<_> = faults.iter().map(|f| f.split(' ').next().unwrap()).collect();
    assert_eq!(whom, ["/no-client", "/no-server"], "{faults:?}");
}

#[test]
fn a_ban_meets_both_directions_and_our_own() {
    let all = open();
    let ban = |id: &str| Trust {
        bundles: set(&[&all.td.bundle, &all.other.bundle]),
        banned: Arc::new([id.parse().unwrap()].into()),
    };
    let keep = |trust| all.condemned(&trust, PeerExpiry::Keep, SystemTime::now());
    assert!(keep(ban("spiffe://td/nobody")).is_empty());
    assert_eq!(keep(ban("spiffe://td/c")), ["/c identity_banned"]);
    let others = ["/a", "/b", "/d", "/e"].map(|path| format!("{path} identity_banned"));
    assert_eq!(keep(ban("spiffe://td/own")), others);
}

/// The last second is whole; what is kept is also kept when the bundles change later, and a
/// clock that was set back condemns nobody.
#[test]
fn an_svid_that_has_run_out_is_kept_or_has_its_grace() {
    let all = open();
    let trust = Trust { bundles: set(&[&all.td.bundle, &all.other.bundle]), ..Trust::default() };
    let end = all.held.iter().map(|p| p.peer.end()).max().unwrap();
    let year = 365 * 24 * HOUR;
    assert!(all.condemned(&trust, PeerExpiry::Keep, end + year).is_empty());
    assert!(all.condemned(&trust, PeerExpiry::Keep, end - year).is_empty());
    let grace = PeerExpiry::Grace(HOUR);
    let least = all.held.iter().map(|p| p.peer.end()).min().unwrap();
    let millisecond = Duration::from_millis(1);
    assert!(all.condemned(&trust, grace, least + HOUR - millisecond).is_empty());
    assert_eq!(all.condemned(&trust, grace, end + HOUR).len(), 5);
}

#[test]
fn a_tunnel_that_comes_to_be_while_things_change_is_judged_by_what_holds_then() {
    let td = Domain::new("td");
    let before = set(&[&td.bundle]);
    let (bundles, seen) = watch::channel(Arc::clone(&before));
    let (banned, seen_bans) = watch::channel(Arc::default());
    let live = TunnelRegistry::new(seen, Some(seen_bans));
    let peer = td.peer("a");
    let admit = |peer: &Peer| live.admit(Direction::Inbound, own(), peer.clone(), &before);
    assert!(admit(&peer).is_ok());
    bundles.send_replace(set(&[&td.revoking(&peer)]));
    assert_eq!(admit(&peer).unwrap_err().reason, CloseReason::SvidRevoked);
    let neighbour = td.peer("b");
    let held = admit(&neighbour).unwrap();
    assert_eq!(live.len(), 1, "a refused one is on no table");
    banned.send_replace(Arc::new([neighbour.id.clone()].into()));
    assert_eq!(admit(&neighbour).unwrap_err().reason, CloseReason::IdentityBanned);
    drop(held);
    assert!(live.is_empty());
}
