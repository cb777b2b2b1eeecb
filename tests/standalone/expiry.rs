//! A caller of `adit server --tunnel hbone` that renews its SVID, and keeps its connections as long
//! as they are good.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{Method, Request};
use tokio::{net::TcpStream, time::sleep};

use crate::{
    backends::Backend,
    peers::{Caller, ONLY13},
    pki::{Pki, as_app},
    process::Adit,
};

/// How long each SVID lasts: at least two seconds, as certificates know whole ones.
const LASTS: Duration = Duration::from_secs(3);

struct Renewing {
    pki: Pki,
    to: SocketAddr,
    target: SocketAddr,
    dials: Vec<Instant>,
    pooled: Option<SendRequest<Bytes>>,
}

impl Renewing {
    /// The connection that it has, if that takes streams, or else a new one with a new SVID.
    async fn ready(&mut self) -> SendRequest<Bytes> {
        if let Some(pooled) = self.pooled.take()
            && let Ok(ready) = pooled.ready().await
        {
            self.pooled = Some(ready.clone());
            return ready;
        }
        self.dials.push(Instant::now());
        let leaf = self.pki.ca.leaf("app", |params| {
            as_app(params);
            params.not_after = time::OffsetDateTime::now_utc() + LASTS;
        });
        let caller = Caller::speaking(ONLY13, &self.pki.ca, Some(&leaf)).offering(&["h2"]);
        let connector = tokio_rustls::TlsConnector::from(caller.config());
        let tcp = TcpStream::connect(self.to).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let tls = connector.connect("localhost".try_into().unwrap(), tcp).await.expect("TLS");
        let (send, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        let ready = send.ready().await.unwrap();
        self.pooled = Some(ready.clone());
        ready
    }

    async fn open(&mut self) -> Result<(SendStream<Bytes>, RecvStream), String> {
        let mut send = self.ready().await;
        let connect = Request::builder().method(Method::CONNECT).uri(self.target.to_string());
        let sent = send.send_request(connect.body(()).unwrap(), false);
        let (answer, up) = sent.map_err(|e| e.to_string())?;
        match answer.await {
            Ok(answer) if answer.status() == 200 => Ok((up, answer.into_body())),
            Ok(answer) => Err(answer.status().to_string()),
            Err(e) => Err(e.to_string()),
        }
    }
}

async fn echoes((up, down): &mut (SendStream<Bytes>, RecvStream)) -> bool {
    up.send_data(Bytes::from_static(b"hello"), false).unwrap();
    matches!(down.data().await, Some(Ok(bytes)) if &bytes[..] == b"hello")
}

/// Some lifetimes with a new stream all the time, and one that lives through all of them.
#[test]
fn a_caller_that_renews_its_svid_loses_nothing() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let server = Adit::start(pki.server(echo.addr) + "--tunnel hbone --allow-cn app");
    let (to, target) = (server.addr, echo.addr);
    let mut caller = Renewing { pki, to, target, dials: Vec::new(), pooled: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let renews = async {
        let mut old = caller.open().await.unwrap();
        let (begun, mut refused, mut asked) = (Instant::now(), Vec::new(), 0);
        while begun.elapsed() < Duration::from_secs(9) {
            asked += 1;
            match caller.open().await {
                Ok(mut stream) => assert!(echoes(&mut stream).await),
                Err(why) => refused.push((begun.elapsed(), why)),
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert!(refused.is_empty(), "{} of {asked} refused: {:?}", refused.len(), refused[0]);
        assert!((3..=9).contains(&caller.dials.len()), "{:?}", caller.dials);
        assert!(caller.dials[1] - caller.dials[0] < LASTS, "told ahead: {:?}", caller.dials);
        assert!(echoes(&mut old).await, "what runs goes on");
    };
    let within = async { tokio::time::timeout(Duration::from_secs(30), renews).await };
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(within)).expect("within 30 s");
    assert_eq!(server.count("svid_expired"), 0);
}
