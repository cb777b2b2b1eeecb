//! Beginnings of connections, whole, in pieces and of others.

use std::{future::poll_fn, pin::pin, sync::Arc};

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use super::*;
use crate::tls::{TunnelPort, classic_provider};

/// What is looked for here.
const TUNNEL: &[u8] = TunnelPort::Original.alpn();
/// Nobody waits for so long here.
const LONG: Duration = Duration::from_secs(60);

/// What a client says first that offers these protocols.
fn hello(protocols: &[&[u8]]) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(classic_provider());
    let config = config.with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let name = "db.test".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut said = Vec::new();
    client.write_tls(&mut said).unwrap();
    said
}

fn of_tunnel() -> Vec<u8> {
    hello(&[TUNNEL])
}

/// A ClientHello in records of at most so many bytes.
fn in_records(hello: &[u8], most: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], length.as_slice(), part].concat()
    };
    hello[5..].chunks(most).flat_map(record).collect()
}

#[test]
fn a_tunnel_is_who_offers_it_and_nobody_else() {
    let sslv2 = [0x80, 0x2e, 1, 3, 1];
    let too_long = [[22, 3, 1, 0x41, 0].as_slice(), &[1; 40]].concat();
    let endless = [[22, 3, 1, 0x40, 0, 1, 0, 0x7f, 0xff].as_slice(), &[0; MOST - 9]].concat();
    for (what, said, is) in [
        ("ours", hello(&[TUNNEL]), Beginning::Offered),
        ("ours among others", hello(&[b"h2", TUNNEL]), Beginning::Offered),
        ("ours, and more behind it", [of_tunnel(), vec![0; 99]].concat(), Beginning::Offered),
        ("ours in records of 16 bytes", in_records(&of_tunnel(), 16), Beginning::Offered),
        ("HTTP/2 of an application", hello(&[b"h2", b"http/1.1"]), Beginning::Other),
        ("TLS without ALPN", hello(&[]), Beginning::Other),
        ("a name that begins as ours", hello(&[b"adit-hbone/10"]), Beginning::Other),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Beginning::Other),
        ("SSLv2", sslv2.to_vec(), Beginning::Other),
        ("an alert", vec![21, 3, 1, 0, 2, 1, 0], Beginning::Other),
        ("a kind of handshake that no client begins", vec![22, 3, 1, 0, 4, 2], Beginning::Other),
        ("a record that is too long", too_long, Beginning::Other),
        ("a byte of TLS, then text", b"\x16text".to_vec(), Beginning::Other),
        ("longer than any of ours", endless, Beginning::Other),
        ("nothing", vec![], Beginning::Unfinished),
        ("one byte", vec![22], Beginning::Unfinished),
    ] {
        assert_eq!(Hello::of(TUNNEL).hears(&said), is, "{what}");
    }
}

proptest! {
    /// Wherever it is cut, and however often: it is known at its last byte and not before.
    #[test]
    fn a_hello_in_pieces_is_known_at_its_last_byte(
        ours in any::<bool>(),
        record in 1_usize..2_000,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let (name, known): (&[u8], _) = match ours {
            true => (TUNNEL, Beginning::Offered),
            false => (b"h2", Beginning::Other),
        };
        // The header of the first record and the kind of message are in one piece there, too.
        let said = in_records(&hello(&[name]), record);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(said.len())).collect();
        ends.sort_unstable();
        let mut hears = Hello::of(TUNNEL);
        for end in ends {
            prop_assert_eq!(hears.hears(&said[..end]), Beginning::Unfinished, "{} bytes", end);
        }
        prop_assert_eq!(hears.hears(&said), known);
    }

    /// What is changed somewhere is another client's hello, or none; it panics nowhere, and what has
    /// not our name in it is no tunnel.
    #[test]
    fn junk_is_no_tunnel(
        junk in prop::collection::vec(any::<u8>(), 0..3_000),
        at in any::<prop::sample::Index>(),
        begins in 0_usize..80,
    ) {
        let real = of_tunnel();
        let mixed = [&real[..begins], &junk].concat();
        for said in [&junk, &mixed] {
            let (mut whole, mut split) = (Hello::of(TUNNEL), Hello::of(TUNNEL));
            let half = at.index(said.len() + 1);
            let first = split.hears(&said[..half]);
            let known = whole.hears(said);
            prop_assert_ne!(known, Beginning::Offered);
            let then = if first == Beginning::Unfinished { split.hears(said) } else { first };
            prop_assert_eq!(then, known);
        }
    }
}

/// A connection: the end that speaks, and the one that looks.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (caller, listener.accept().await.unwrap().0)
}

/// All that there is to read.
async fn rest(socket: &TcpStream, bytes: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < bytes {
        socket.readable().await.unwrap();
        let _ = socket.try_read_buf(&mut read);
    }
    read
}

#[tokio::test]
async fn what_was_looked_at_is_read_by_whoever_serves_it() {
    let (mut caller, socket) = pair().await;
    let said = of_tunnel();
    let mut opening = ClientHelloPeek::of(&socket, TUNNEL);
    caller.write_all(&said[..100]).await.unwrap();
    assert_eq!(opening.begun(LONG).await.unwrap(), Beginning::Unfinished);
    let speaks = async {
        for part in said[100..].chunks(50) {
            caller.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let (known, ()) = tokio::join!(opening.finished(), speaks);
    assert_eq!(known.unwrap(), Beginning::Offered);
    assert_eq!(rest(&socket, said.len()).await, said);
}

#[tokio::test]
async fn who_waits_to_be_spoken_to_is_no_tunnel_and_is_heard_later() {
    let (mut caller, socket) = pair().await;
    let silence = Duration::from_millis(20);
    assert_eq!(
        ClientHelloPeek::of(&socket, TUNNEL).begun(silence).await.unwrap(),
        Beginning::Other
    );
    caller.write_all(b"EHLO").await.unwrap();
    assert_eq!(rest(&socket, 4).await, b"EHLO");
}

#[tokio::test]
async fn who_ends_within_a_hello_has_said_something_else() {
    let (mut caller, socket) = pair().await;
    let mut opening = ClientHelloPeek::of(&socket, TUNNEL);
    caller.write_all(&of_tunnel()[..7]).await.unwrap();
    assert_eq!(opening.begun(LONG).await.unwrap(), Beginning::Unfinished);
    caller.shutdown().await.unwrap();
    assert_eq!(opening.finished().await.unwrap(), Beginning::Other);
    let (caller, socket) = pair().await;
    drop(caller);
    assert_eq!(ClientHelloPeek::of(&socket, TUNNEL).begun(LONG).await.unwrap(), Beginning::Other);
}

/// What was looked at stays in the socket, which stays readable.
#[tokio::test]
async fn who_says_half_of_it_is_waited_for_without_looking_again_and_again() {
    let (mut caller, socket) = pair().await;
    let mut opening = ClientHelloPeek::of(&socket, TUNNEL);
    caller.write_all(&of_tunnel()[..7]).await.unwrap();
    assert_eq!(opening.begun(LONG).await.unwrap(), Beginning::Unfinished);
    let mut polls = 0;
    let mut finished = pin!(opening.finished());
    let counted = poll_fn(|cx| {
        polls += 1;
        finished.as_mut().poll(cx)
    });
    assert!(timeout(4 * LAST_PAUSE, counted).await.is_err());
    assert!(polls < 20, "{polls} looks");
}
