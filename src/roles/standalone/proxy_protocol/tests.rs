use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

fn told<'a>(from: &str, to: &str) -> Told<'a> {
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    Told { from, to, tls: None, alpn: None, authority: None, peer: None }
}

#[tokio::test]
async fn a_header_of_either_version_is_read_to_its_end_and_no_further() {
    for (from, to) in [("10.0.0.1:5", "10.0.0.2:6"), ("[2001:db8::1]:5", "10.0.0.2:6")] {
        for mode in [ProxyMode::V1, ProxyMode::Conn, ProxyMode::TlsFull] {
            let (mut near, mut far) = pair().await;
            let header = header(mode, &told(from, to)).unwrap();
            let reading = async {
                let from = read(&far).await;
                let mut rest = String::new();
                far.read_to_string(&mut rest).await.unwrap();
                (from, rest)
            };
            // One byte after the other, and the payload close behind the last.
            let writing = async {
                let (last, first) = header.split_last().unwrap();
                for byte in first {
                    near.write_all(&[*byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                near.write_all(&[*last, b'h', b'i']).await.unwrap();
                drop(near);
            };
            let ((read, rest), ()) = tokio::join!(reading, writing);
            let read = read.unwrap().map(|(from, to)| (from.to_string(), to.port()));
            assert_eq!((read, rest.as_str()), (Some((from.to_owned(), 6)), "hi"));
        }
    }
}

#[tokio::test]
async fn addresses_of_a_header_have_one_spelling() {
    for (header, from, to) in [
        ("PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 5 6\r\n", "10.0.0.1:5", "10.0.0.2:6"),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 0 6\r\n", "10.0.0.1:0", "10.0.0.2:6"),
    ] {
        let (mut near, far) = pair().await;
        near.write_all(header.as_bytes()).await.unwrap();
        let ends = (from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(read(&far).await.unwrap(), Some(ends), "{header}");
    }
}

#[test]
fn version_1_says_tcp4_of_ipv4_however_it_came() {
    for (from, to, line) in [
        ("[::ffff:10.0.0.1]:5", "[::ffff:10.0.0.2]:6", "PROXY TCP4 10.0.0.1 10.0.0.2 5 6\r\n"),
        ("10.0.0.1:0", "10.0.0.2:6", "PROXY TCP4 10.0.0.1 10.0.0.2 0 6\r\n"),
        ("0.0.0.0:0", "10.0.0.2:6", "PROXY UNKNOWN\r\n"),
    ] {
        let header = header(ProxyMode::V1, &told(from, to)).unwrap();
        assert_eq!(String::from_utf8(header).unwrap(), line);
    }
}

#[tokio::test]
async fn the_longest_header_that_we_write_is_one_that_we_read() {
    let peer = PeerCert { der: vec![7; 24_000], ..PeerCert::default() };
    let tls =
        TlsFacts { version: "TLSv1.3", group: "X25519", cipher: "x", mutual: true, path: None };
    let mut told = told("10.0.0.1:5", "10.0.0.2:6");
    (told.tls, told.peer) = (Some(&tls), Some(&peer));
    let header = header(ProxyMode::TlsFull, &told).unwrap();
    let (mut near, mut far) = pair().await;
    let writing = async {
        near.write_all(&header).await.unwrap();
        near.write_all(b"hi").await.unwrap();
        drop(near);
    };
    let reading = async {
        let read = read(&far).await.unwrap();
        let mut rest = String::new();
        far.read_to_string(&mut rest).await.unwrap();
        (read, rest)
    };
    let (_, (read, rest)) = tokio::join!(writing, reading);
    assert_eq!((read, rest.as_str()), (Some((told.from, told.to)), "hi"));
}

#[tokio::test]
async fn what_is_no_header_is_refused() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00",
        b"PROXY TCP4 300.0.0.1 10.0.0.2 1 2\r\n",
        b"PROXY TCP4 10.0.0.1\r\n",
        b"PROXY TCP4 ",
        b"",
    ] {
        let (mut near, far) = pair().await;
        near.write_all(bytes).await.unwrap();
        drop(near);
        assert!(read(&far).await.is_err(), "{bytes:?}");
    }
}

/// A length that is not what follows it, and words that are not what they stand for.
#[tokio::test]
async fn a_header_that_lies_of_its_length_is_refused() {
    let two = |verb: u8, family: u8, says: u16, body: &[u8]| {
        let signature = b"\r\n\r\n\0\r\nQUIT\n";
        [&signature[..], &[verb, family], &says.to_be_bytes(), body].concat()
    };
    let four = [10, 0, 0, 1, 10, 0, 0, 2, 0, 5, 0, 6];
    let one = |line: &str| line.as_bytes().to_vec();
    for (name, bytes) in [
        ("no addresses", two(0x21, 0x11, 0, &[])),
        ("half of them", two(0x21, 0x11, 4, &four)),
        ("a byte too few", two(0x21, 0x11, 11, &four)),
        ("those of IPv4 for IPv6", two(0x21, 0x21, 12, &four)),
        ("a byte too few for IPv6", two(0x21, 0x21, 35, &[0; 36])),
        ("more than comes", two(0x21, 0x11, 13, &four)),
        ("very much more", two(0x21, 0x11, 0xffff, &four)),
        ("nothing comes", two(0x20, 0x00, 1, &[])),
        ("version 1 in 2", two(0x11, 0x11, 12, &four)),
        ("version 3", two(0x31, 0x11, 12, &four)),
        ("another command", two(0x22, 0x11, 12, &four)),
        ("another family", two(0x21, 0x41, 12, &four)),
        ("another protocol", two(0x21, 0x13, 12, &four)),
        ("no end", one(&format!("PROXY TCP4 10.0.0.1 10.0.0.2 5 6{}", " ".repeat(200)))),
        ("a long line", one(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(200)))),
        ("a line feed only", one("PROXY TCP4 10.0.0.1 10.0.0.2 5 6\n")),
        ("a port too large", one("PROXY TCP4 10.0.0.1 10.0.0.2 5 65536\r\n")),
        ("a port below 0", one("PROXY TCP4 10.0.0.1 10.0.0.2 -1 6\r\n")),
        ("one of each", one("PROXY TCP4 10.0.0.1 ::1 5 6\r\n")),
        ("another family", one("PROXY TCP6 10.0.0.1 10.0.0.2 5 6\r\n")),
        ("too many words", one("PROXY TCP4 10.0.0.1 10.0.0.2 5 6 7\r\n")),
        ("small letters", one("proxy TCP4 10.0.0.1 10.0.0.2 5 6\r\n")),
    ] {
        let (mut near, far) = pair().await;
        near.write_all(&bytes).await.unwrap();
        drop(near);
        let told = read(&far).await;
        assert!(told.is_err(), "{name}: {told:?}");
    }
    // What is said of a health check of the sender itself need not be understood.
    let (mut near, far) = pair().await;
    near.write_all(&two(0x20, 0x11, 3, &[1, 2, 3])).await.unwrap();
    let told = read(&far).await;
    assert!(told.is_err() || told.unwrap().is_none());
}

#[test]
fn tls_full_carries_certificate_and_identity() {
    let peer = PeerCert {
        cn: Some("client".into()),
        id: Some("spiffe://td/client".parse().unwrap()),
        der: vec![0x30, 1, 2],
        ..PeerCert::default()
    };
    let tls =
        TlsFacts { version: "TLSv1.3", group: "X25519", cipher: "x", mutual: true, path: None };
    let mut told = told("10.0.0.1:5", "10.0.0.2:6");
    (told.tls, told.peer) = (Some(&tls), Some(&peer));
    (told.alpn, told.authority) = (Some(b"h2".as_slice()), Some("db.example.org"));
    for (mode, client) in [(ProxyMode::Tls, 1), (ProxyMode::TlsFull, 7)] {
        let header = header(mode, &told).unwrap();
        let read = v2::Header::try_from(header.as_slice()).unwrap();
        let tlvs: Vec<_> = read.tlvs().map(Result::unwrap).collect();
        let of = |kind: u8| tlvs.iter().find(|t| t.kind == kind).map(|t| t.value.to_vec());
        assert_eq!(of(ALPN).unwrap(), b"h2");
        assert_eq!(of(AUTHORITY).unwrap(), b"db.example.org");
        assert_eq!(of(SPIFFE_ID).unwrap(), b"spiffe://td/client");
        let ssl = of(SSL).unwrap();
        assert_eq!(ssl[..5], [client, 0, 0, 0, 0]);
        let subs: Vec<_> = v2::TypeLengthValues::from(&ssl[5..]).map(Result::unwrap).collect();
        let kinds: Vec<u8> = subs.iter().map(|t| t.kind).collect();
        match mode {
            ProxyMode::Tls => assert_eq!(kinds, [SSL_VERSION]),
            _ => assert_eq!(kinds, [SSL_VERSION, SSL_CN, SSL_CLIENT_CERT]),
        }
    }
}
