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

struct Renewing {
    pki: Pki,
    /// How long each SVID lasts: at least two seconds, as certificates know whole ones.
    lasts: Duration,
    to: SocketAddr,
    target: SocketAddr,
    dials: Vec<Instant>,
    pooled: Option<SendRequest<Bytes>>,
}

impl Renewing {
    /// The connection that it has, if that takes streams, or else a new one with a new SVID.
    async fn ready(&mut self) -> Result<SendRequest<Bytes>, String> {
        if let Some(pooled) = self.pooled.take()
            && let Ok(ready) = pooled.ready().await
        {
            self.pooled = Some(ready.clone());
            return Ok(ready);
        }
        let lasts = self.lasts;
        self.dials.push(Instant::now());
        let leaf = self.pki.ca.leaf("app", |params| {
            as_app(params);
            params.not_after = time::OffsetDateTime::now_utc() + lasts;
        });
        let caller = Caller::speaking(ONLY13, &self.pki.ca, Some(&leaf)).offering(&["h2"]);
        let connector = tokio_rustls::TlsConnector::from(caller.config());
        let tcp = TcpStream::connect(self.to).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let tls = connector.connect("localhost".try_into().unwrap(), tcp).await;
        let tls = tls.map_err(|e| format!("TLS: {e}"))?;
        let (send, connection) = h2::client::handshake(tls).await.map_err(|e| e.to_string())?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        let ready = send.ready().await.map_err(|e| e.to_string())?;
        self.pooled = Some(ready.clone());
        Ok(ready)
    }

    async fn open(&mut self) -> Result<(SendStream<Bytes>, RecvStream), String> {
        let mut send = self.ready().await?;
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

/// Some lifetimes with a new stream all the time, and one that lives through all of them. A machine
/// that is too busy to open a stream in the time that an SVID lasts has longer ones.
#[test]
fn a_caller_that_renews_its_svid_loses_nothing() {
    let renewed = [3, 9].map(Duration::from_secs).into_iter().map(renews);
    let failed: Vec<_> = renewed.map_while(Result::err).collect();
    assert!(failed.len() < 2, "{failed:#?}");
}

fn renews(lasts: Duration) -> Result<(), String> {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let server = Adit::start(pki.server(echo.addr) + "--tunnel hbone --allow-cn app");
    let (to, target) = (server.addr, echo.addr);
    let mut caller = Renewing { pki, lasts, to, target, dials: Vec::new(), pooled: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let renews = async {
        let mut old = caller.open().await?;
        let (begun, mut asked) = (Instant::now(), 0);
        while begun.elapsed() < 3 * lasts {
            asked += 1;
            let opened = caller.open().await;
            let mut stream =
                opened.map_err(|e| format!("{asked}, after {:?}: {e}", begun.elapsed()))?;
            assert!(echoes(&mut stream).await);
            sleep(Duration::from_millis(10)).await;
        }
        let dials = &caller.dials;
        if !(3..=9).contains(&dials.len()) || dials[1] - dials[0] >= lasts {
            return Err(format!("not told ahead: {dials:?}"));
        }
        assert!(echoes(&mut old).await, "what runs goes on");
        Ok(())
    };
    let within = async { tokio::time::timeout(10 * lasts, renews).await };
    let local = tokio::task::LocalSet::new();
    let renewed = runtime.block_on(local.run_until(within));
    renewed.map_err(|_| format!("not within {:?}", 10 * lasts))??;
    match server.count("svid_expired") {
        0 => Ok(()),
        cut => Err(format!("{cut} were cut")),
    }
}
