//! Who floods a pod is cut off, and kept off for longer each time.

use std::{thread::sleep, time::Duration};

use adit::hbone::http2::frame::{flag, kind, put};
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    corpus::Forged,
    forge::{block_on, forge, handshake, hold, request, uncaptured},
    lab::Lab,
    mesh::{PODS, allow, lab},
    wait::{LIMIT, wait_until_async},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("floods::who_was_cut_off_is_kept_off_for_a_while", kept_off),
    ("floods::a_caller_has_so_many_tunnels_and_streams", tunnels_and_streams),
    ("floods::a_caller_has_so_much_memory_for_stalled_readers", memory),
];

const SPY: &str = "spiffe://cluster.local/ns/shop/sa/spy";
const DB: &str = "10.77.0.2:15008";

/// Acknowledgements of PINGs that nobody sent, until the other end has enough.
fn flood(lab: &Lab, forged: Forged) {
    block_on(async {
        let mut tls = handshake(uncaptured(lab, DB), forged).await.expect("a handshake");
        let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        put(&mut frames, kind::SETTINGS, 0, 0, &[]);
        (0..8_000).for_each(|_| put(&mut frames, kind::PING, flag::ACK, 0, &[7; 8]));
        let _ = tls.write_all(&frames).await;
        while tls.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
    });
}

fn asks(lab: &Lab) -> Result<u16, String> {
    request(uncaptured(lab, DB), forge(lab, &[SPY], |_| ()), connect("10.77.0.2:8080"))
}

fn connect(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap()
}

fn kept_off() {
    let lab = lab(&["web"]);
    assert_eq!(asks(&lab), Ok(401), "the policy does not name it");
    for pause in [1, 2] {
        flood(&lab, forge(&lab, &[SPY], |_| ()));
        let told = |error: &str| error.contains("was cut off for a flood");
        let before = lab.records("inbound", "overloaded").len();
        assert!(asks(&lab).is_err());
        lab.wait("a record", || lab.records("inbound", "overloaded").len() > before);
        let record = lab.records("inbound", "overloaded").pop().unwrap();
        assert!(told(record["error"].as_str().unwrap()), "{record}");
        assert!(lab.ask("web", "10.96.0.10:80").is_ok(), "others get in");
        sleep(Duration::from_secs(pause - 1) + Duration::from_millis(600));
        if pause > 1 {
            assert!(asks(&lab).is_err(), "after {pause} s less a little");
        }
        sleep(Duration::from_millis(500));
        lab.wait("it is taken again", || asks(&lab) == Ok(401));
    }
}

fn limited(lab: &mut Lab, limits: &str) {
    lab.echo("db", 8080);
    lab.start(&format!("limits: {{ {limits} }}\n{}", allow(&["web", "spy"])));
}

fn overloaded(lab: &Lab, why: &str) -> bool {
    let records = lab.records("inbound", "overloaded");
    records.iter().any(|record| record["error"].as_str().is_some_and(|error| error.contains(why)))
}

fn tunnels_and_streams() {
    let mut lab = Lab::new(PODS);
    limited(&mut lab, "callerTunnels: 2, callerStreams: 3");
    let spy = || forge(&lab, &[SPY], |_| ());
    let app = Some("10.77.0.2:8080");
    let _held = [app, app].map(|app| hold(uncaptured(&lab, DB), spy(), app));
    let asked = request(uncaptured(&lab, DB), spy(), connect("10.77.0.2:8080"));
    assert!(asked.is_err(), "{asked:?}");
    lab.wait("a record", || overloaded(&lab, "2 open tunnels to this pod"));
    assert!(lab.ask("web", "10.96.0.10:80").is_ok(), "others get in");
    drop(lab);
    let mut lab = Lab::new(PODS);
    limited(&mut lab, "callerTunnels: 2, callerStreams: 3");
    let spy = || forge(&lab, &[SPY], |_| ());
    let _held = hold(uncaptured(&lab, DB), spy(), app);
    let refused = block_on(async {
        let tls = handshake(uncaptured(&lab, DB), spy()).await.expect("a handshake");
        let (mut send, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
        let _driver = tokio::spawn(connection);
        let (mut kept, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            send = send.ready().await.expect("room");
            let (answer, stream) = send.send_request(connect("10.77.0.2:8080"), false).unwrap();
            kept.push(stream);
            answers.push(answer.await);
        }
        assert!(answers[..2].iter().all(|a| a.as_ref().is_ok_and(|a| a.status() == 200)));
        answers.pop().unwrap().expect_err("the fourth of this caller")
    });
    assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM), "it may be asked again");
    lab.wait("a record", || overloaded(&lab, "too many streams"));
    assert!(lab.ask("web", "10.96.0.10:80").is_ok(), "others get in");
}

/// Streams to an application that takes nothing, in two tunnels, as full as they get.
fn memory() {
    let mut lab = Lab::new(PODS);
    limited(&mut lab, "callerHeldBytes: 1048576");
    let mut open = crate::mesh::held(&lab, "web");
    let _stalls = lab.listen("db", 9090);
    block_on(async {
        let (mut kept, mut senders) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let spy = forge(&lab, &[SPY], |_| ());
            let tls = handshake(uncaptured(&lab, DB), spy).await.expect("a handshake");
            let (mut send, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
            tokio::spawn(connection);
            for _ in 0..15 {
                send = send.ready().await.expect("room");
                let (answer, stream) = send.send_request(connect("10.77.0.2:9090"), false).unwrap();
                kept.push(answer);
                tokio::spawn(fill(stream));
            }
            senders.push(send);
        }
        let full = async || overloaded(&lab, "stalled readers hold too much memory");
        wait_until_async("a reader that stalls is too much", LIMIT, full).await;
    });
    let mut echo = [0; 6];
    std::io::Write::write_all(&mut open, b"still\n").unwrap();
    std::io::Read::read_exact(&mut open, &mut echo).expect("another caller's stream goes on");
}

async fn fill(mut stream: h2::SendStream<bytes::Bytes>) {
    loop {
        stream.reserve_capacity(65_536);
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        if stream.send_data(vec![7; room].into(), false).is_err() {
            return;
        }
    }
}
