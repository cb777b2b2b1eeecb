//! A caller whose SVID is renewed, and that keeps its connections as long as they are good.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use adit::{
    hbone::{
        TunnelConfig,
        server::{Incoming, TunnelParams, serve},
    },
    lifecycle::Tasks,
    observe::conn::Meter,
    relay::{self, App},
    tls::Acceptor,
};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 as SUITE;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::Test,
    svids::ROOT,
    tunnel::{pair, run},
};

pub(crate) const TESTS: &[Test] =
    &[("expiry::a_caller_that_renews_its_svid_loses_nothing", renewed)];

const NO_LIMITS: adit::relay::Limits = adit::relay::Limits { idle: None, half_closed: None };

/// An inbound side that echoes, and begins nothing for an SVID that has ended.
async fn far(tcp: TcpStream, tasks: Tasks) {
    let peer = tcp.peer_addr().unwrap();
    let (own, within) = (ROOT.own("far"), Duration::from_secs(10));
    let accepted = Acceptor::default().accept(tcp, &own.svid, &own.bundles, within).await;
    let Ok(session) = accepted else { return };
    let caller = session.peer.clone();
    let handle = |incoming: Box<Incoming>| {
        let ended = caller.has_ended();
        async move {
            if ended {
                return incoming.refuse(StatusCode::UNAUTHORIZED);
            }
            let Some(mut stream) = incoming.accept(None) else { return };
            let (app, socket) = pair().await;
            let echo = async {
                let (mut read, mut write) = app.into_split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            };
            let (mut socket, meter) = (App::new(socket), Arc::new(Meter::default()));
            tokio::join!(echo, relay::run(&mut socket, &mut stream, &meter, &NO_LIMITS));
        }
    };
    let (config, draining) = (TunnelConfig::default(), CancellationToken::new());
    let who = crate::tunnel::caller(&session, peer);
    let _ = serve(
        session,
        TunnelParams { peer, config: &config, caller: &who, tasks: &tasks, draining },
        handle,
    )
    .await;
}

struct Caller {
    to: SocketAddr,
    tasks: Tasks,
    lasts: Duration,
    dials: Vec<Instant>,
    pooled: Option<SendRequest<Bytes>>,
}

impl Caller {
    async fn new(lasts: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (to, tasks) = (listener.local_addr().unwrap(), Tasks::default());
        let spawner = tasks.clone();
        tasks.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                spawner.spawn(far(tcp, spawner.clone()));
            }
        });
        Self { to, tasks, lasts, dials: Vec::new(), pooled: None }
    }

    /// The connection that it has, if that takes streams, or else a new one with its SVID of now.
    async fn ready(&mut self) -> SendRequest<Bytes> {
        if let Some(pooled) = self.pooled.take()
            && let Ok(ready) = pooled.ready().await
        {
            self.pooled = Some(ready.clone());
            return ready;
        }
        self.dials.push(Instant::now());
        let config = ROOT.rustls_client_for("near", SUITE, self.lasts);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let tcp = TcpStream::connect(self.to).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let tls = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await.expect("TLS");
        let (send, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
        self.tasks.spawn(async move {
            let _ = connection.await;
        });
        let ready = send.ready().await.unwrap();
        self.pooled = Some(ready.clone());
        ready
    }

    async fn open(&mut self) -> Result<(h2::SendStream<Bytes>, h2::RecvStream), String> {
        let mut send = self.ready().await;
        let connect = Request::builder().method(Method::CONNECT).uri("10.0.0.1:80");
        let sent = send.send_request(connect.body(()).unwrap(), false);
        let (answer, up) = sent.map_err(|e| e.to_string())?;
        match answer.await {
            Ok(answer) if answer.status() == 200 => Ok((up, answer.into_body())),
            Ok(answer) => Err(answer.status().to_string()),
            Err(e) => Err(e.to_string()),
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

async fn echoes((up, down): &mut (h2::SendStream<Bytes>, h2::RecvStream)) -> bool {
    up.send_data(Bytes::from_static(b"hello"), false).unwrap();
    matches!(down.data().await, Some(Ok(bytes)) if &bytes[..] == b"hello")
}

/// Three lifetimes with a new stream all the time, and one that lives through all of them.
fn renewed() {
    run(async {
        let mut caller = Caller::new(Duration::from_secs(2)).await;
        let mut old = caller.open().await.unwrap();
        let (begun, mut refused, mut asked) = (Instant::now(), Vec::new(), 0);
        while begun.elapsed() < Duration::from_secs(7) {
            asked += 1;
            match caller.open().await {
                Ok(mut stream) => assert!(echoes(&mut stream).await),
                Err(why) => refused.push(why),
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert!(refused.is_empty(), "{} of {asked} refused: {}", refused.len(), refused[0]);
        assert!((3..=6).contains(&caller.dials.len()), "{:?}", caller.dials);
        let first = caller.dials[1] - caller.dials[0];
        assert!(first < Duration::from_secs(3), "ahead of the end: {first:?}");
        assert!(echoes(&mut old).await, "what runs goes on");
    });
}
