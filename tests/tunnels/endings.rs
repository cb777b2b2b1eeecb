//! What was cut must not look complete: resets of either application, and of the tunnel.

use std::time::Duration;

use adit::hbone::http2::{
    frame::{flag, kind, put},
    hpack,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    harness::Test,
    transfers::apps,
    tunnel::{ALL, Ends, Tunnel, forge_behind_the_handshake, run, slow_reader},
};

pub(crate) const TESTS: &[Test] = &[
    ("endings::a_reset_on_one_side_is_a_reset_on_the_other", a_reset_is_passed_on),
    ("endings::a_tunnel_that_is_cut_resets_every_application", a_cut_resets_all),
    ("endings::an_answer_that_is_cut_short_is_not_an_end", an_answer_that_is_cut_short),
    ("endings::who_is_told_to_stop_keeps_nobody_waiting", who_is_told_to_stop),
    ("endings::an_orderly_end_loses_nothing", an_orderly_end_loses_nothing),
    ("endings::a_forged_record_behind_the_handshake_is_named", a_forged_record_is_named),
];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until the end: whether it was a reset, and not an end of file.
async fn was_reset(socket: &mut TcpStream) -> bool {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match timeout(Duration::from_secs(5), socket.read(&mut buffer)).await {
            Err(_) => panic!("hangs"),
            Ok(Ok(0)) => return false,
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return true,
        }
    }
}

fn a_reset_is_passed_on() {
    for ends in ALL {
        for near_resets in [true, false] {
            for half_closed in [false, true] {
                run(async {
                    let tunnel = Tunnel::new(ends).await;
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let (near, far) = apps(&tunnel, &listener).await;
                    // A sibling is none the worse for it.
                    let (mut a, mut b) = apps(&tunnel, &listener).await;
                    let (mut resets, mut sees) =
                        if near_resets { (near, far) } else { (far, near) };
                    resets.write_all(b"some of it").await.unwrap();
                    sees.read_exact(&mut [0; 10]).await.unwrap();
                    if half_closed {
                        sees.shutdown().await.unwrap();
                        assert_eq!(resets.read(&mut [0; 1]).await.unwrap(), 0);
                    }
                    SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
                    drop(resets);
                    assert!(
                        was_reset(&mut sees).await,
                        "{ends:?}, near resets: {near_resets}, half-closed: {half_closed}"
                    );
                    a.write_all(b"sound").await.unwrap();
                    b.read_exact(&mut [0; 5]).await.unwrap();
                });
            }
        }
    }
}

fn a_cut_resets_all() {
    for ends in ALL {
        run(async {
            let tunnel = Tunnel::new(ends).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut pairs = Vec::new();
            for n in 0..20 {
                let (mut near, far) = apps(&tunnel, &listener).await;
                if n % 2 == 0 {
                    near.write_all(&vec![7; 10_000 * n]).await.unwrap();
                }
                pairs.push((near, far));
            }
            tunnel.cut();
            for (n, (mut near, mut far)) in pairs.into_iter().enumerate() {
                assert!(was_reset(&mut near).await, "{ends:?}: near {n}");
                assert!(was_reset(&mut far).await, "{ends:?}: far {n}");
            }
        });
    }
}

/// RFC 9113 §8.1: NO_ERROR says that no more is wanted, not that all was said.
fn an_answer_that_is_cut_short() {
    run(async {
        let tunnel = Tunnel::new(Ends::AditToH2).await;
        let mut app = tunnel.ask("cut.short:80".parse().unwrap()).await.unwrap();
        app.read_exact(&mut [0; 10]).await.unwrap();
        assert!(was_reset(&mut app).await, "it looks complete");
    });
}

/// Its turn to write goes to the others, though its application still has to take something.
fn who_is_told_to_stop() {
    run(async {
        let tunnel = Tunnel::new(Ends::AditToH2).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let (other, taken) = tokio::join!(tunnel.connect(to), listener.accept());
        let (mut other, mut taken) = (other.unwrap(), taken.unwrap().0);
        let mut stopped = Vec::new();
        for _ in 0..4 {
            stopped.push(tunnel.ask("enough.said:80".parse().unwrap()).await.unwrap());
        }
        let writes = stopped.iter_mut().map(|app| async move {
            while app.write_all(&[7; 256 * 1024]).await.is_ok() {}
            std::future::pending::<()>().await
        });
        let write = async { while other.write_all(&[7; 256 * 1024]).await.is_ok() {} };
        let read = async {
            let mut buffer = vec![0; 256 * 1024];
            let end = tokio::time::Instant::now() + Duration::from_secs(2);
            while tokio::time::Instant::now() < end {
                let n = timeout(Duration::from_secs(1), taken.read(&mut buffer)).await;
                assert!(n.expect("it moves all the time").unwrap() > 0);
            }
        };
        tokio::select! {
            _ = futures_util::future::join_all(writes) => {}
            () = write => {}
            () = read => {}
        }
    });
}

fn a_forged_record_is_named() {
    let told = run(forge_behind_the_handshake());
    assert!(told.contains("BadRecordMac"), "{told}");
}

/// A tunnel that ends in order loses nothing of what is still on its way, though its peer goes on
/// talking: a socket that is closed with something unread in it resets the connection.
fn an_orderly_end_loses_nothing() {
    run(async {
        let (mut tls, draining) = slow_reader().await;
        let mut frames = PREFACE.to_vec();
        let settings = [&[0, 4][..], &10_000_000_u32.to_be_bytes()].concat();
        put(&mut frames, kind::SETTINGS, 0, 0, &settings);
        put(&mut frames, kind::WINDOW_UPDATE, 0, 0, &10_000_000_u32.to_be_bytes());
        let mut block = Vec::new();
        hpack::encode(&mut block, ":method", "CONNECT");
        hpack::encode(&mut block, ":authority", "10.0.0.1:80");
        put(&mut frames, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block);
        tls.write_all(&frames).await.unwrap();
        sleep(Duration::from_millis(300)).await;
        draining.cancel();
        sleep(Duration::from_millis(500)).await;
        let mut ping = Vec::new();
        put(&mut ping, kind::PING, 0, 0, &[0; 8]);
        tls.write_all(&ping).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        let mut all = Vec::new();
        tls.read_to_end(&mut all).await.expect("an orderly end");
        assert!(all.len() > 1_000_000, "{} bytes", all.len());
    });
}
