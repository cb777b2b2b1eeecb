//! A network that swallows all, and what each end makes of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use adit::{
    hbone::{
        TunnelConfig,
        connect::ConnectRequest,
        order::Ticket,
        server::{Incoming, TunnelParams, serve},
        stream::TunnelStream,
    },
    lifecycle::Tasks,
    tls::Acceptor,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::Test,
    svids::ROOT,
    tunnel::{pair, pool_to},
};

pub(crate) const TESTS: &[Test] =
    &[("silence::a_peer_that_is_gone_without_a_word_is_given_up", given_up)];

/// Ten seconds until it is asked, twenty for its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A way to `to` that swallows what it carries while `frozen`.
async fn way(to: SocketAddr, tasks: &Tasks, frozen: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let spawner = tasks.clone();
    tasks.spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let (near, far) = (near.into_split(), far.into_split());
            for (mut from, mut into) in [(near.0, far.1), (far.0, near.1)] {
                let frozen = Arc::clone(&frozen);
                spawner.spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(n @ 1..) = from.read(&mut buffer).await {
                        if !frozen.load(Relaxed) {
                            let _ = into.write_all(&buffer[..n]).await;
                        }
                    }
                    // Of an end nothing is heard either.
                    if frozen.load(Relaxed) {
                        std::future::pending::<()>().await;
                    }
                });
            }
        }
    });
    addr
}

struct Ends {
    frozen: Arc<AtomicBool>,
    near: TunnelStream,
    /// Told when the far end's tunnel is over.
    far: oneshot::Receiver<()>,
    _pool: adit::hbone::Pool,
}

/// An idle stream between two ends, which nobody ends.
async fn idle(tasks: &Tasks) -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let frozen = Arc::new(AtomicBool::new(false));
    let (say, far) = oneshot::channel();
    let streams = tasks.clone();
    tasks.spawn(async move {
        let (tcp, peer) = listener.accept().await.unwrap();
        let (own, within) = (ROOT.own("far"), Duration::from_secs(10));
        let session = Acceptor::default().accept(tcp, &own.svid, &own.bundles, within).await;
        let handle = |incoming: Box<Incoming>| async {
            let (_app, socket) = pair().await;
            let Some(mut stream) = incoming.accept(None) else { return };
            let mut socket = adit::relay::App::new(socket);
            adit::relay::run(
                &mut socket,
                &mut stream,
                &Arc::default(),
                &adit::relay::Limits::default(),
            )
            .await;
        };
        let (config, draining) = (TunnelConfig::default(), CancellationToken::new());
        let session = session.unwrap();
        let who = crate::tunnel::caller(&session, peer);
        let _ = serve(
            session,
            TunnelParams { peer, config: &config, caller: &who, tasks: &streams, draining },
            handle,
        )
        .await;
        let _ = say.send(());
    });
    let (pool, hop) = pool_to(way(to, tasks, Arc::clone(&frozen)).await, tasks);
    let request = ConnectRequest {
        authority: "10.0.0.1:80".parse().unwrap(),
        client: "10.0.0.9:4242".parse().unwrap(),
        service: None,
        baggage: String::new(),
        network: None,
    };
    let opened = pool.open(&ROOT.own("near"), &hop, (&request, b""), &Ticket::alone()).await;
    Ends { frozen, near: opened.unwrap().0, far, _pool: pool }
}

/// Carries `near` to an application that says nothing: when it ended.
async fn over(mut near: TunnelStream) -> Instant {
    let (_app, socket) = pair().await;
    let mut socket = adit::relay::App::new(socket);
    adit::relay::run(&mut socket, &mut near, &Arc::default(), &adit::relay::Limits::default())
        .await;
    Instant::now()
}

fn given_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks = Tasks::default();
        let (gone, there) = (idle(&tasks).await, idle(&tasks).await);
        sleep(Duration::from_millis(200)).await;
        let (begun, most) = (Instant::now(), PATIENCE + Duration::from_secs(6));
        gone.frozen.store(true, Relaxed);
        let mut alive = Box::pin(over(there.near));
        let both = async { tokio::join!(over(gone.near), gone.far).0 };
        let ended = tokio::select! {
            ended = timeout(most, both) => ended.expect("both ends give it up"),
            _ = &mut alive => panic!("a peer that answers was given up"),
        };
        assert!(ended - begun > PATIENCE - Duration::from_secs(2), "{:?}", ended - begun);
        assert!(timeout(Duration::from_secs(1), alive).await.is_err(), "it answers");
        tasks.cut();
    });
}
