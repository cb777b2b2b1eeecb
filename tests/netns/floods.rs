//! Who floods a pod is cut off, and kept off for longer each time.

use std::{thread::sleep, time::Duration};

use adit::tunnel::http2::frame::{flag, kind, put};
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    corpus::Forged,
    forge::{block_on, forge, handshake, request, uncaptured},
    lab::Lab,
    mesh::lab,
};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("floods::who_was_cut_off_is_kept_off_for_a_while", kept_off)];

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
    let connect = Request::builder().method(Method::CONNECT).uri("10.77.0.2:8080");
    request(uncaptured(lab, DB), forge(lab, &[SPY], |_| ()), connect.body(()).unwrap())
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
