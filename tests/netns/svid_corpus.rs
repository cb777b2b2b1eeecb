//! The whole X.509-SVID corpus ([`crate::corpus`]) against the live ends of a tunnel: as callers
//! of a pod that adit carries, and as the servers that adit dials for one. What must be taken is
//! carried; what must not is closed with its own reason, and of the application nothing passes.

use std::{
    collections::{HashMap, VecDeque},
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use adit::identity::Purpose;
use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::Value;

use crate::{
    corpus::{Fixture, Forged, OWN, World, intermediate},
    forge::{block_on, handshake, provider, shows, uncaptured},
    lab::Lab,
    mesh::{MESH, PODS},
};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("svid_corpus::callers", callers), ("svid_corpus::servers", servers)];

/// adit under an intermediate of the corpus's own root, with the other bundles beside it.
fn lab(world: &World, mesh: &str) -> Lab {
    let mut lab = Lab::new(PODS);
    let middle = intermediate(&world.own, |_| ());
    let pem = |der: &[u8]| {
        let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, der);
        format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
    };
    std::fs::write(lab.file("middle.pem"), pem(&middle.der)).unwrap();
    std::fs::write(lab.file("root.pem"), pem(&world.own.der)).unwrap();
    std::fs::write(lab.file("middle-key.pem"), middle.issuer.key().serialize_pem()).unwrap();
    let only_us = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(lab.file("middle-key.pem"), only_us).unwrap();
    let dir = lab.dir.path().display();
    lab.ca = Some(format!(
        "{{ embedded: {{ dir: {dir}/ca, upstream: {{ certificate: {dir}/middle.pem, \
         privateKey: {dir}/middle-key.pem, bundle: {dir}/root.pem }} }} }}"
    ));
    let mut federation = "federation:\n  trustDomains:\n".to_owned();
    for (n, bundle) in world.bundles().iter().enumerate() {
        if bundle.trust_domain.as_str() != OWN {
            let file = lab.file(&format!("bundle-{n}"));
            std::fs::write(&file, bundle.to_document().to_string()).unwrap();
            let name = &bundle.trust_domain;
            federation += &format!("  - {{ name: '{name}', bundleFile: {} }}\n", file.display());
        }
    }
    lab.start(&(federation + mesh));
    lab
}

/// The records of connections by the port they came from, oldest first (a port may be used again),
/// once `count` are there.
fn records(lab: &Lab, direction: &str, count: usize) -> HashMap<u16, VecDeque<Value>> {
    let all = || {
        let log = lab.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of = |l: &Value| l["target"] == "access" && l["direction"] == direction;
        lines.filter(of).collect::<Vec<_>>()
    };
    lab.wait("recorded", || all().len() >= count);
    let mut by_port = HashMap::<_, VecDeque<_>>::new();
    for record in all() {
        let addr: SocketAddr = record["src.addr"].as_str().unwrap().parse().unwrap();
        by_port.entry(addr.port()).or_default().push_back(record);
    }
    by_port
}

/// What the record of a fixture's connection must say.
fn check(name: &str, record: &Value, (reason, why): (&str, &str)) {
    assert_eq!(record["reason"], reason, "{name}: {record}");
    assert!(record["error"].as_str().unwrap_or_default().contains(why), "{name}: {record}");
    assert_eq!((&record["bytes_sent"], &record["bytes_recv"]), (&0.into(), &0.into()), "{name}");
}

fn callers() {
    let world = World::new();
    let lab = lab(&world, MESH);
    lab.echo("db", 8080);
    let mut all = Vec::new();
    let fixtures = world.fixtures(&format!("spiffe://{OWN}/ns/shop/sa/web"), Purpose::Client);
    for fixture in fixtures {
        let Fixture { name, shown, refused, id, .. } = fixture;
        let socket = uncaptured(&lab, "10.77.0.2:15008");
        let port = socket.local_addr().unwrap().port();
        let answer = call(socket, shown);
        match refused {
            None => assert_eq!(answer.as_deref(), Ok("caller 10.77.0.3\nhello\n"), "{name}"),
            Some(_) => assert!(answer.is_err(), "{name}: {answer:?}"),
        }
        all.push((name, port, refused, id));
    }
    let mut records = records(&lab, "inbound", all.len());
    let mut taken = 0;
    for (name, port, refused, id) in &all {
        let record = &records.get_mut(port).unwrap().pop_front().unwrap();
        match refused {
            Some(refusal) => check(name, record, *refusal),
            None => {
                assert_eq!(record["src.identity"], **id, "{name}: {record}");
                taken += 1;
            }
        }
    }
    println!("{taken} callers carried, {} refused", all.len() - taken);
}

/// Opens a tunnel with a stream to db, says hello in it, and returns what comes back.
fn call(socket: std::net::TcpStream, shown: Forged) -> Result<String, String> {
    block_on(async {
        let tls = handshake(socket, shown).await?;
        let (send, connection) = h2::client::handshake(tls).await.map_err(|e| e.to_string())?;
        let driver = tokio::spawn(connection);
        let mut send = send.ready().await.map_err(|e| e.to_string())?;
        let connect = Request::builder().method(Method::CONNECT).uri("10.77.0.2:8080");
        let connect = connect.body(()).expect("a request");
        let (answer, mut stream) = send.send_request(connect, false).map_err(|e| e.to_string())?;
        stream.send_data(Bytes::from_static(b"hello\n"), true).map_err(|e| e.to_string())?;
        let answer = answer.await.map_err(|e| e.to_string())?;
        assert_eq!(answer.status(), 200);
        let text = read(answer.into_body()).await?;
        driver.abort();
        Ok(text)
    })
}

async fn read(mut body: h2::RecvStream) -> Result<String, String> {
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        text.extend(data.map_err(|e| e.to_string())?);
    }
    String::from_utf8(text).map_err(|e| e.to_string())
}

/// db is on another node here, and whoever sits there shows the corpus.
fn servers() {
    let elsewhere = MESH
        .replace("netns: db,", "node: node-b,")
        .replace("netns: web }", "netns: web, node: node-a }");
    let (world, id) = (World::new(), format!("spiffe://{OWN}/ns/shop/sa/db"));
    let lab = lab(&world, &format!("node: node-a\n{elsewhere}"));
    let listener = lab.listen("db", 15008);
    let mut all = Vec::new();
    for fixture in world.fixtures(&id, Purpose::Server) {
        let Fixture { name, shown, refused, id: whose, .. } = fixture;
        // Who is sound, but not who was called.
        let other = (whose != id).then_some(("identity_mismatch", "the peer is "));
        let refused = refused.or(other);
        let server = serve_one(listener.try_clone().unwrap(), shown);
        let mut app = lab.connect("web", "10.77.0.2:8080").unwrap();
        let port = app.local_addr().unwrap().port();
        let _ = app.write_all(b"hello\n");
        let _ = app.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let got = app.read_to_string(&mut answer).map(|_| answer).map_err(|e| e.to_string());
        let served = server.join().unwrap();
        match refused {
            None => {
                assert_eq!(served.as_deref(), Ok("10.77.0.2:8080 hello\n"), "{name}");
                assert_eq!(got.as_deref(), Ok("HELLO\n"), "{name}");
            }
            // Not even the handshake ends, so nothing was sent under its keys.
            Some(_) => assert!(served.is_err() && got.is_err(), "{name}: {served:?} {got:?}"),
        }
        all.push((name, port, refused));
    }
    let mut records = records(&lab, "outbound", all.len());
    for (name, port, refused) in &all {
        let record = records.get_mut(port).unwrap().pop_front().unwrap();
        match refused {
            Some(refusal) => check(name, &record, *refusal),
            None => assert_eq!(record["dst.identity"], *id, "{name}: {record}"),
        }
    }
    let taken = all.iter().filter(|(_, _, refused)| refused.is_none()).count();
    println!("{taken} servers used, {} refused", all.len() - taken);
}

/// Answers one caller in capitals, and says whom it asked for and what it said; or why it did
/// not come to that. Once it returns the tunnel is gone at both ends.
fn serve_one(
    listener: TcpListener,
    shown: Forged,
) -> std::thread::JoinHandle<Result<String, String>> {
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().map_err(|e| e.to_string())?;
        block_on(async {
            let mut config = rustls::ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("TLS 1.3")
                .with_no_client_auth()
                .with_cert_resolver(shows(shown));
            config.alpn_protocols = vec![b"h2".to_vec()];
            socket.set_nonblocking(true).expect("non-blocking");
            let tcp = tokio::net::TcpStream::from_std(socket).expect("a socket");
            let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(tcp).await;
            let tls = tls.map_err(|e| e.to_string())?;
            let mut tunnel = h2::server::handshake(tls).await.map_err(|e| e.to_string())?;
            let first = tunnel.accept().await.ok_or("no request")?;
            let (request, mut respond) = first.map_err(|e| e.to_string())?;
            tunnel.graceful_shutdown();
            let talk = async {
                let to = request.uri().to_string();
                let mut answer = respond.send_response(Response::new(()), false).expect("sent");
                let said = read(request.into_body()).await?;
                answer.send_data(said.to_uppercase().into(), true).map_err(|e| e.to_string())?;
                Ok(format!("{to} {said}"))
            };
            let over = async { while tunnel.accept().await.is_some() {} };
            let (said, ()) = tokio::join!(talk, over);
            // adit has put a tunnel that says GOAWAY aside before it closes it.
            let _ = tokio::time::timeout(
                Duration::from_secs(5),
                std::future::poll_fn(|cx| tunnel.poll_closed(cx)),
            )
            .await;
            said
        })
    })
}
