//! A caller that makes its node do much for little takes no time from the tunnels beside its own.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

use adit::hbone::http2::{
    frame::{flag, kind, put},
    hpack,
};
use futures_util::future::join_all;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 as SUITE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::Test,
    svids::ROOT,
    tunnel::{Tunnel, run, worker},
};

pub(crate) const TESTS: &[Test] = &[
    ("fairness::small_frames_on_many_streams_delay_nobody_else", small_frames),
    ("fairness::small_frames_in_many_tunnels_take_one_callers_share", many_tunnels),
];

/// Runs `work` on a thread of its own until `stop`.
fn aside<F>(stop: &CancellationToken, work: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    let stop = stop.clone();
    std::thread::spawn(move || {
        run(async {
            // Whoever is stopped does not look at what others have left.
            tokio::select! { biased; () = stop.cancelled() => {}, () = work() => {} }
        });
    });
}

/// An application that takes whatever comes, or says it back.
fn application(stop: &CancellationToken, echoes: bool) -> SocketAddr {
    counting(stop, echoes, Arc::default())
}

/// One that counts the bytes.
fn counting(stop: &CancellationToken, echoes: bool, count: Arc<AtomicUsize>) -> SocketAddr {
    let (here, at) = mpsc::channel();
    aside(stop, move || async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        here.send(listener.local_addr().unwrap()).unwrap();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(n @ 1..) = socket.read(&mut buffer).await {
                    count.fetch_add(n, Relaxed);
                    if echoes && socket.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    at.recv().unwrap()
}

/// A byte for one stream, then one for the next, as fast as they are taken.
async fn flood(to: SocketAddr, sink: SocketAddr, who: &str, streams: u32) {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(ROOT.rustls_client(who, SUITE)));
    let tcp = TcpStream::connect(to).await.unwrap();
    let tls = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await.expect("TLS");
    let (mut read, mut write) = tokio::io::split(tls);
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    put(&mut frames, kind::SETTINGS, 0, 0, &[]);
    let mut block = Vec::new();
    hpack::encode(&mut block, ":method", "CONNECT");
    hpack::encode(&mut block, ":authority", &sink.to_string());
    for n in 0..streams {
        put(&mut frames, kind::HEADERS, flag::END_HEADERS, 1 + 2 * n, &block);
    }
    write.write_all(&frames).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut round = Vec::new();
    (0..streams).for_each(|n| put(&mut round, kind::DATA, 0, 1 + 2 * n, &[7]));
    let burst = round.repeat(100);
    let mut sink = vec![0; 65_536];
    tokio::select! {
        () = async { while read.read(&mut sink).await.is_ok_and(|n| n > 0) {} } => {}
        () = async { for _ in 0..usize::MAX { write.write_all(&burst).await.unwrap(); } } => {}
    }
    panic!("it ends before the test does");
}

/// Round trips for a while: how long the slowest of a hundred takes.
async fn p99(app: &mut TcpStream) -> Duration {
    let (mut took, until) = (Vec::new(), Instant::now() + Duration::from_secs(3));
    while Instant::now() < until {
        let began = Instant::now();
        app.write_all(&[7; 64]).await.unwrap();
        app.read_exact(&mut [0; 64]).await.unwrap();
        took.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took.sort();
    assert!(took.len() > 20, "{} round trips", took.len());
    took[took.len() * 99 / 100]
}

fn small_frames() {
    let stop = CancellationToken::new();
    let _stops = stop.clone().drop_guard();
    let (sink, echo) = (application(&stop, false), application(&stop, true));
    let (here, at) = mpsc::channel();
    aside(&stop, move || worker(here));
    let to = at.recv().unwrap();
    run(async {
        let good = Tunnel::to(to).await;
        let mut app = good.connect(echo).await.unwrap();
        app.set_nodelay(true).unwrap();
        let quiet = p99(&mut app).await;
        aside(&stop, move || flood(to, sink, "near", 150));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let beside = p99(&mut app).await;
        // Without turns it is seconds. Much runs beside this on few cores, in a debug build.
        let most = (2 * quiet).max(Duration::from_millis(300));
        assert!(beside <= most, "p99 {beside:?}, quiet {quiet:?}");
    });
}

/// Two who say as much as is taken: what is done for them is compared, not how long it takes.
fn many_tunnels() {
    let stop = CancellationToken::new();
    let _stops = stop.clone().drop_guard();
    let (by_many, by_one) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let sink_of_many = counting(&stop, false, Arc::clone(&by_many));
    let sink_of_one = counting(&stop, false, Arc::clone(&by_one));
    let (here, at) = mpsc::channel();
    aside(&stop, move || worker(here));
    let to = at.recv().unwrap();
    aside(&stop, move || async move {
        join_all((0..50).map(|_| flood(to, sink_of_many, "many", 3))).await;
    });
    let reaches = |count: &AtomicUsize, bytes: usize| {
        let begun = Instant::now();
        while count.load(Relaxed) < bytes {
            assert!(begun.elapsed() < Duration::from_secs(60), "{bytes} bytes have not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    reaches(&by_many, 5_000);
    aside(&stop, move || flood(to, sink_of_one, "near", 3));
    reaches(&by_one, 500);
    let before = by_many.load(Relaxed);
    reaches(&by_one, 5_500);
    let meanwhile = by_many.load(Relaxed) - before;
    assert!(
        (1_000..4 * 5_000).contains(&meanwhile),
        "{meanwhile} bytes of many tunnels, 5000 of one"
    );
}
