//! What a proxy does when it is refused for an SVID that has run out on the way, as when the clock
//! was set: it asks once more with the one it has then.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use adit::{
    hbone::{
        TunnelConfig,
        connect::{Authority, ConnectRequest},
        order::Ticket,
        server::{Incoming, TunnelParams, serve},
    },
    identity::LocalIdentity,
    lifecycle::Tasks,
    net::{CloseReason, Direction, Outcome, PeerAddr},
    observe::{Telemetry, conn::OpenConn},
    proxy::egress::hbone::{Source, open},
    tls::Acceptor,
};
use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::Test,
    svids::ROOT,
    tunnel::{pair, pool_to, run},
};

pub(crate) const TESTS: &[Test] = &[
    ("egress::who_was_renewed_on_the_way_asks_once_more", renewed_on_the_way),
    ("egress::who_has_nothing_newer_to_show_asks_once", nothing_newer),
    ("egress::who_is_refused_while_its_svid_counts_asks_once", refused),
];

/// Shows the first of its identities the first time it is asked, and so on; the last one then on.
struct Shows {
    identities: Mutex<Vec<LocalIdentity>>,
    asked: AtomicUsize,
}

impl Source for Shows {
    async fn identity(&self) -> Result<LocalIdentity, Outcome> {
        self.asked.fetch_add(1, Relaxed);
        let mut identities = self.identities.lock().unwrap();
        Ok(if identities.len() > 1 { identities.remove(0) } else { identities[0].clone() })
    }

    fn handshake_failed(&self, reason: CloseReason) {
        panic!("no handshake fails here: {reason}");
    }
}

/// A tunnel whose every request is answered with 401, unless its caller shows `taken`.
async fn far(tcp: TcpStream, tasks: Tasks, taken: LocalIdentity, requests: Arc<AtomicUsize>) {
    let peer = tcp.peer_addr().unwrap();
    let (own, within) = (ROOT.own("far"), Duration::from_secs(10));
    let accepted = Acceptor::default().accept(tcp, &own.svid, &own.bundles, within).await;
    let session = accepted.unwrap();
    let is_taken = session.peer.chain.first() == taken.svid.chain.first();
    let handle = |incoming: Box<Incoming>| {
        requests.fetch_add(1, Relaxed);
        async move {
            match is_taken {
                true => drop(incoming.accept(None)),
                false => incoming.refuse(StatusCode::UNAUTHORIZED),
            }
        }
    };
    let (config, draining) = (TunnelConfig::default(), CancellationToken::new());
    let caller = crate::tunnel::caller(&session, peer);
    let with = TunnelParams { peer, config: &config, caller: &caller, tasks: &tasks, draining };
    let _ = serve(session, with, handle).await;
}

/// How often the identity was asked for, how many requests arrived, and what came of it; only
/// `taken` is let in.
async fn opened(
    shown: Vec<LocalIdentity>,
    taken: LocalIdentity,
) -> (usize, usize, Result<(), CloseReason>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (to, tasks) = (listener.local_addr().unwrap(), Tasks::default());
    let requests = Arc::<AtomicUsize>::default();
    let (spawner, seen) = (tasks.clone(), Arc::clone(&requests));
    tasks.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let served = far(tcp, spawner.clone(), taken.clone(), Arc::clone(&seen));
            spawner.spawn(served);
        }
    });
    let (pool, hop) = pool_to(to, &tasks);
    let (_app, socket) = pair().await;
    let client: SocketAddr = "10.0.0.9:999".parse().unwrap();
    let authority = Authority::Addr("10.0.0.2:80".parse().unwrap());
    let request =
        ConnectRequest { authority, client, service: None, baggage: String::new(), network: None };
    let telemetry = Telemetry::new().unwrap();
    let conn = OpenConn::open(&telemetry, Direction::Outbound, PeerAddr(client));
    let shows = Shows { identities: Mutex::new(shown), asked: AtomicUsize::new(0) };
    let asks = (&hop, &request, &Ticket::alone());
    let opened = open(&shows, &pool, (&socket, &mut Vec::new()), &conn, asks).await;
    let came_of_it = opened.map(drop).map_err(|failed| failed.outcome.0);
    (shows.asked.load(Relaxed), requests.load(Relaxed), came_of_it)
}

/// It has run out by our clock.
fn stale() -> LocalIdentity {
    let mut own = ROOT.own("near");
    let svid = Arc::get_mut(&mut own.svid).unwrap();
    svid.not_after = SystemTime::now() - Duration::from_secs(1);
    own
}

fn renewed_on_the_way() {
    let fresh = ROOT.own("near");
    let came_of_it = run(opened(vec![stale(), fresh.clone()], fresh));
    assert_eq!(came_of_it, (2, 2, Ok(())));
}

fn nothing_newer() {
    let came_of_it = run(opened(vec![stale()], ROOT.own("near")));
    assert_eq!(came_of_it, (2, 1, Err(CloseReason::PeerDenied)));
}

fn refused() {
    let came_of_it = run(opened(vec![ROOT.own("near")], ROOT.own("near")));
    assert_eq!(came_of_it, (1, 1, Err(CloseReason::PeerDenied)));
}
