//! A caller that makes its node do much for little takes no time from the tunnels beside its own.

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use adit::tunnel::http2::{
    frame::{flag, kind, put},
    hpack,
};
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

pub(crate) const TESTS: &[Test] =
    &[("fairness::small_frames_on_many_streams_delay_nobody_else", small_frames)];

const STREAMS: u32 = 150;

/// Runs `work` on a thread of its own until `stop`.
fn aside<F>(stop: &CancellationToken, work: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    let stop = stop.clone();
    std::thread::spawn(move || {
        run(async {
            tokio::select! { () = work() => {}, () = stop.cancelled() => {} }
        });
    });
}

/// An application that takes whatever comes, or says it back.
fn application(stop: &CancellationToken, echoes: bool) -> SocketAddr {
    let (here, at) = mpsc::channel();
    aside(stop, move || async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        here.send(listener.local_addr().unwrap()).unwrap();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(n @ 1..) = socket.read(&mut buffer).await {
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
async fn flood(to: SocketAddr, sink: SocketAddr) {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(ROOT.rustls_client("near", SUITE)));
    let tcp = TcpStream::connect(to).await.unwrap();
    let tls = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await.expect("TLS");
    let (mut read, mut write) = tokio::io::split(tls);
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    put(&mut frames, kind::SETTINGS, 0, 0, &[]);
    let mut block = Vec::new();
    hpack::encode(&mut block, ":method", "CONNECT");
    hpack::encode(&mut block, ":authority", &sink.to_string());
    for n in 0..STREAMS {
        put(&mut frames, kind::HEADERS, flag::END_HEADERS, 1 + 2 * n, &block);
    }
    write.write_all(&frames).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut round = Vec::new();
    (0..STREAMS).for_each(|n| put(&mut round, kind::DATA, 0, 1 + 2 * n, &[7]));
    let burst = round.repeat(100);
    let mut sink = vec![0; 65_536];
    tokio::select! {
        () = async { while read.read(&mut sink).await.is_ok_and(|n| n > 0) {} } => {}
        () = async { for _ in 0..600 { write.write_all(&burst).await.unwrap(); } } => {}
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
        aside(&stop, move || flood(to, sink));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let beside = p99(&mut app).await;
        // Without turns it is seconds. Much runs beside this on few cores, in a debug build.
        let most = (2 * quiet).max(Duration::from_millis(300));
        assert!(beside <= most, "p99 {beside:?}, quiet {quiet:?}");
    });
}
