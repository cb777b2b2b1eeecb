//! Our records and handshakes against rustls', over sockets: contents, key updates, endings.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use adit::tls::{
    Acceptor, Connector, Session,
    record::{Implementation, RecordError, prefer},
};
use rustls::{SupportedCipherSuite, crypto::aws_lc_rs::cipher_suite as suite};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsStream;

use crate::{
    pattern::Pattern,
    records_end::{Ours, Plan, Seen, size},
    svids::{ROOT, spiffe},
};

pub(crate) const SUITES: [SupportedCipherSuite; 3] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
];
pub(crate) const WITHIN: Duration = Duration::from_secs(10);
const BYTES: usize = 4_000_000;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum We {
    Call,
    Answer,
}

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async { tokio::time::timeout(Duration::from_secs(20), work).await };
    runtime.block_on(work).expect("within 20 seconds")
}

/// Two ends of a TCP connection: the caller's, the other's.
pub(crate) async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let caller = TcpStream::connect(listener.local_addr().unwrap());
    let (caller, answerer) = tokio::join!(caller, listener.accept());
    (caller.unwrap(), answerer.unwrap().0)
}

/// Our end of a handshake with whoever is at the other end of `tcp`.
pub(crate) async fn ours(we: We, tcp: TcpStream) -> Session {
    let own = ROOT.own("ours");
    let session = match we {
        We::Answer => Acceptor::default().accept(tcp, &own.svid, &own.bundles, WITHIN).await,
        We::Call => {
            let expected = [spiffe("theirs")];
            let (svid, bundles) = (&own.svid, &own.bundles);
            Connector::default().connect(tcp, svid, bundles, &expected, WITHIN).await
        }
    };
    let session = session.expect("a handshake");
    assert_eq!(session.peer.id, spiffe("theirs"));
    session
}

async fn theirs(we: We, suite: SupportedCipherSuite, tcp: TcpStream) -> TlsStream<TcpStream> {
    match we {
        We::Answer => {
            let config = ROOT.rustls_client("theirs", suite);
            let name = "127.0.0.1".try_into().unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            connector.connect(name, tcp).await.expect("a handshake").into()
        }
        We::Call => {
            let config = ROOT.rustls_server("theirs", suite);
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            acceptor.accept(tcp).await.expect("a handshake").into()
        }
    }
}

async fn handshake(we: We, suite: SupportedCipherSuite) -> (Ours, TlsStream<TcpStream>) {
    let (caller, answerer) = tcp().await;
    let (a, b) = if we == We::Call { (caller, answerer) } else { (answerer, caller) };
    let (session, tls) = tokio::join!(ours(we, a), theirs(we, suite, b));
    (Ours::new(session), tls)
}

fn refresh(tls: &mut TlsStream<TcpStream>) {
    match tls {
        TlsStream::Client(tls) => tls.get_mut().1.refresh_traffic_keys().expect("next key"),
        TlsStream::Server(tls) => tls.get_mut().1.refresh_traffic_keys().expect("next key"),
    }
}

/// rustls' end of a plan: writes, reads and key updates all at once. The bytes that came.
async fn carry(tls: &mut TlsStream<TcpStream>, mut plan: Plan) -> usize {
    let (mut rest, mut writes) = (&[][..], 0);
    let (mut shut, mut ended) = (false, false);
    let mut buffer = vec![0; 64 * 1024];
    poll_fn(|cx| {
        // One write a turn, so that neither direction is over before the other begins.
        while !shut {
            if rest.is_empty() && plan.sends.at == plan.bytes {
                match Pin::new(&mut *tls).poll_shutdown(cx) {
                    Poll::Ready(done) => done.expect("close_notify sent"),
                    Poll::Pending => break,
                }
                shut = true;
                break;
            }
            if rest.is_empty() {
                rest = plan.sends.next(size().min(plan.bytes - plan.sends.at));
                writes += 1;
                if writes % plan.rekey == 0 {
                    refresh(tls);
                }
                continue;
            }
            match Pin::new(&mut *tls).poll_write(cx, rest) {
                Poll::Ready(n) => rest = &rest[n.expect("written")..],
                Poll::Pending => break,
            }
            cx.waker().wake_by_ref();
            break;
        }
        if !shut {
            let _ = Pin::new(&mut *tls).poll_flush(cx);
        }
        while !ended {
            let part = size().clamp(1, buffer.len());
            let mut into = ReadBuf::new(&mut buffer[..part]);
            match Pin::new(&mut *tls).poll_read(cx, &mut into) {
                Poll::Ready(done) => done.expect("an orderly end"),
                Poll::Pending => break,
            }
            ended = into.filled().is_empty();
            plan.expects.expect(into.filled());
        }
        if shut && ended { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    plan.expects.at
}

#[test]
fn bytes_pass_in_every_suite_and_role_with_key_updates_on_both_sides() {
    for (by, suite) in
        Implementation::ALL.into_iter().flat_map(|by| SUITES.map(|suite| (by, suite)))
    {
        for we in [We::Call, We::Answer] {
            prefer(by);
            run(async {
                let (mut ours, mut tls) = handshake(we, suite).await;
                let (up, down) = (Pattern::new(1), Pattern::new(2));
                let plan = Plan { sends: up, expects: down, bytes: BYTES, rekey: 7 };
                let other = Plan { sends: down, expects: up, rekey: 5, ..plan };
                let (ended, received) = tokio::join!(ours.run(plan), carry(&mut tls, other));
                assert_eq!(ended, Ok(()), "{by:?} {we:?} {suite:?}");
                assert_eq!((ours.seen.received, received), (BYTES, BYTES));
                // rustls asks for ours whenever it takes its next key; the others are answers.
                let Seen { key_updates, requested, .. } = ours.seen;
                assert!(requested > 5 && key_updates > requested, "{:?}", ours.seen);
            });
        }
    }
}

#[test]
fn what_came_with_the_handshake_is_not_lost() {
    run(async {
        let (caller, answerer) = tcp().await;
        let talkative = async {
            let mut tls = theirs(We::Answer, SUITES[0], caller).await;
            tls.write_all(b"with the Finished").await.unwrap();
            refresh(&mut tls);
            tls.write_all(b", and more").await.unwrap();
            tls.shutdown().await.unwrap();
            tls
        };
        // It has spoken and closed before we read its Finished.
        let late = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            ours(We::Answer, answerer).await
        };
        let (_tls, session) = tokio::join!(talkative, late);
        let mut ours = Ours::new(session);
        let mut came = Vec::new();
        let end = ours.until(&mut |data| came.extend_from_slice(data), |_| false).await;
        assert_eq!((end, &came[..]), (Ok(()), &b"with the Finished, and more"[..]));
    });
}

#[test]
fn close_notify_is_told_from_a_connection_that_was_cut() {
    for we in [We::Call, We::Answer] {
        run(async {
            // Ours.
            let (mut ours, mut tls) = handshake(we, SUITES[1]).await;
            ours.records.sealer.append(b"all of it").unwrap();
            ours.records.sealer.close().unwrap();
            ours.flush().await;
            let mut came = Vec::new();
            tls.read_to_end(&mut came).await.expect("an orderly end");
            assert_eq!(came, b"all of it");

            // Theirs; we may still speak.
            let (mut ours, mut tls) = handshake(we, SUITES[1]).await;
            tls.write_all(b"all of it").await.unwrap();
            tls.shutdown().await.unwrap();
            let mut came = Vec::new();
            let end = ours.until(&mut |data| came.extend_from_slice(data), |_| false).await;
            assert_eq!((end, &came[..]), (Ok(()), &b"all of it"[..]));
            assert!(ours.is_closed());
            ours.records.sealer.append(b"an answer").unwrap();
            ours.flush().await;
            let mut answer = [0; 9];
            tls.read_exact(&mut answer).await.expect("half-closed");
            assert_eq!(&answer, b"an answer");

            // Theirs, but a FIN is all that comes: with a whole record before it, or a part.
            for cut in [0, 1] {
                let (mut ours, mut tls) = handshake(we, SUITES[2]).await;
                tls.write_all(b"some of it").await.unwrap();
                tls.flush().await.unwrap();
                let raw = tls.get_mut().0;
                raw.write_all(&[23, 3, 3, 0, 40, 1, 2][..cut * 7]).await.unwrap();
                raw.shutdown().await.unwrap();
                let mut came = Vec::new();
                let end = ours.until(&mut |data| came.extend_from_slice(data), |_| false).await;
                assert_eq!(end, Err(RecordError::Truncated));
                assert_eq!(came, b"some of it");
            }
        });
    }
}

/// Carries bytes between two sockets and damages the next that passes after `strike`.
async fn wire(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    strike: &AtomicBool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if strike.swap(false, SeqCst) {
            buffer[n - 1] ^= 1;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[test]
fn a_damaged_byte_ends_the_connection_and_either_side_is_told() {
    for suite in SUITES {
        for we in [We::Call, We::Answer] {
            for to_us in [true, false] {
                run(async {
                    let ((mut a, b), (mut c, d)) = tokio::join!(tcp(), tcp());
                    let (near, far) = (a.split(), c.split());
                    let (up, down) = (AtomicBool::new(false), AtomicBool::new(false));
                    let wires = async {
                        tokio::join!(wire(near.0, far.1, &up), wire(far.0, near.1, &down))
                    };
                    let both = async {
                        let (session, mut tls) = tokio::join!(ours(we, b), theirs(we, suite, d));
                        let mut ours = Ours::new(session);
                        // First something sound, so that tickets have passed too.
                        tls.write_all(b"sound").await.unwrap();
                        tls.flush().await.unwrap();
                        let came = std::cell::Cell::new(0);
                        let mut count = |data: &[u8]| came.set(came.get() + data.len());
                        assert_eq!(ours.until(&mut count, |_| came.get() == 5).await, Ok(()));
                        let strike = if to_us { &down } else { &up };
                        strike.store(true, SeqCst);
                        if to_us {
                            tls.write_all(&[7; 100]).await.unwrap();
                            tls.flush().await.unwrap();
                            let end = ours.until(&mut |_| panic!("opened"), |_| false).await;
                            assert_eq!(end, Err(RecordError::BadMac));
                            ours.records.sealer.fail(&end.unwrap_err()).unwrap();
                            ours.flush().await;
                            let told = tls.read(&mut [0; 9]).await.unwrap_err().to_string();
                            assert!(told.contains("BadRecordMac"), "{told}");
                        } else {
                            ours.records.sealer.append(&[7; 100]).unwrap();
                            ours.flush().await;
                            assert!(tls.read(&mut [0; 9]).await.is_err());
                            let _ = tls.flush().await;
                            let end = ours.until(&mut |_| panic!("data"), |_| false).await;
                            assert_eq!(end, Err(RecordError::Alert(20)));
                        }
                    };
                    tokio::select! {
                        _ = wires => panic!("the wires ended first"),
                        () = both => {}
                    }
                });
            }
        }
    }
}

/// A message may be cut small, but not into as many records as its author likes.
#[test]
fn a_handshake_may_be_cut_small_but_not_endlessly() {
    run(async {
        let (near, far) = tcp().await;
        let mut config = ROOT.rustls_client("theirs", SUITES[0]);
        config.max_fragment_size = Some(40);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "127.0.0.1".try_into().unwrap();
        let (_, theirs) = tokio::join!(ours(We::Answer, far), connector.connect(name, near));
        theirs.expect("a handshake in small pieces");

        let (mut near, far) = tcp().await;
        // A ClientHello of 60,000 bytes, a byte in each record.
        let mut pieces = Vec::new();
        for n in 0..300 {
            let byte = *[1, 0, 0xea, 0x60].get(n).unwrap_or(&3);
            pieces.extend([22, 3, 1, 0, 1, byte]);
        }
        near.write_all(&pieces).await.unwrap();
        let own = ROOT.own("ours");
        let refused = Acceptor::default().accept(far, &own.svid, &own.bundles, WITHIN).await;
        let Err(why) = refused else { panic!("taken") };
        assert!(why.to_string().contains("more than 256 records"), "{why}");
    });
}
