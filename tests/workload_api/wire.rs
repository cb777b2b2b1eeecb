//! Bytes on the wire that clients of tonic do not send.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::{
    harness::Test,
    hpack::{frame, huffman},
    served::Served,
};

pub(crate) const TESTS: &[Test] = &[
    ("grpcs_c_library_names_the_socket_by_its_path", grpcs_c_library_names_the_socket_by_its_path),
    ("whatever_authority_a_client_sends_is_served", whatever_authority_a_client_sends_is_served),
    ("an_authority_in_huffman_coding_is_served", an_authority_in_huffman_coding_is_served),
    (
        "an_authority_that_comes_in_a_continuation_is_served",
        an_authority_that_comes_in_a_continuation_is_served,
    ),
    ("who_is_gone_since_it_connected_gets_nothing", who_is_gone_since_it_connected_gets_nothing),
];

const CONNECT: &str = "ADIT_TEST_CONNECT";

/// What grpcio 1.85 sends for a call on `unix:/tmp/a.sock`, without the security header.
const CALL: &[u8] =
    b"@\x05:path\x20/SpiffeWorkloadAPI/FetchX509SVID@\x0a:authority\x0ctmp%2Fa.sock\
    \x83\x86@\x0ccontent-type\x10application/grpc@\x02te\x08trailers";

const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The kind of the first frame on a stream, and its payload, after a call with these fields.
fn answer(socket: &mut UnixStream, block: &[u8]) -> (u8, Vec<u8>) {
    answer_to(socket, frame(1, 4, 1, block))
}

/// The same after these frames.
fn answer_to(socket: &mut UnixStream, call: Vec<u8>) -> (u8, Vec<u8>) {
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let settings = frame(4, 0, 0, &[]);
    socket.write_all(&[START, &settings, &call, &frame(0, 1, 1, &[0; 5])].concat()).unwrap();
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        socket.read_exact(&mut payload).unwrap();
        if head[8] == 1 {
            return (head[3], payload);
        }
    }
}

fn grpcs_c_library_names_the_socket_by_its_path() {
    let served = Served::start("  - { id: /one, selectors: { uid: 0 } }");
    let mut socket = UnixStream::connect(served.socket()).unwrap();
    let (kind, fields) = answer(&mut socket, CALL);
    assert_eq!(kind, 1, "HEADERS, not RST_STREAM: {fields:?}");
    // :status 200, as every answer of gRPC.
    assert_eq!(fields[0], 0x88);
}

/// As grpc-java sends it for a channel on a Unix socket, and what others may.
fn whatever_authority_a_client_sends_is_served() {
    let served = Served::start("  - { id: /one, selectors: { uid: 0 } }");
    for authority in
        ["", "/run/a/a.sock", "/tmp//x.sock", "unix:/a.so", "a@b:c:d[e]f", "_ %zz{}|^\\"]
    {
        let was = &b"\x0ctmp%2Fa.sock"[..];
        let at = CALL.windows(was.len()).position(|part| part == was).unwrap();
        let length = [u8::try_from(authority.len()).unwrap()];
        let (before, after) = (&CALL[..at], &CALL[at + was.len()..]);
        let call = [before, &length, authority.as_bytes(), after].concat();
        let mut socket = UnixStream::connect(served.socket()).unwrap();
        let (kind, fields) = answer(&mut socket, &call);
        assert_eq!((kind, fields[0]), (1, 0x88), "{authority}");
    }
}

/// As clients write it whose library codes whatever gets shorter by it.
fn an_authority_in_huffman_coding_is_served() {
    let served = Served::start("  - { id: /one, selectors: { uid: 0 } }");
    for authority in [
        "/run/adit/agent.sock",
        "tmp%2Fa_b.sock",
        "unix:/a=b,c;d",
        "localhost",
        "",
        "unix:/home/a@b/~x (1)/{a|b}.sock",
        "#<[\\]>\u{1}\n",
    ] {
        let was = &b"\x0ctmp%2Fa.sock"[..];
        let at = CALL.windows(was.len()).position(|part| part == was).unwrap();
        let coded = huffman(authority.as_bytes());
        let length = [0x80 | u8::try_from(coded.len()).unwrap()];
        let call = [&CALL[..at], &length, &coded, &CALL[at + was.len()..]].concat();
        let mut socket = UnixStream::connect(served.socket()).unwrap();
        let (kind, fields) = answer(&mut socket, &call);
        assert_eq!((kind, fields[0]), (1, 0x88), "{authority}");
    }
}

/// Wherever the fields are cut, with nothing in the authority and with something.
fn an_authority_that_comes_in_a_continuation_is_served() {
    let served = Served::start("  - { id: /one, selectors: { uid: 0 } }");
    let was = &b"\x0ctmp%2Fa.sock"[..];
    let at = CALL.windows(was.len()).position(|part| part == was).unwrap();
    let empty = [&CALL[..at], &[0], &CALL[at + was.len()..]].concat();
    for block in [CALL, &empty] {
        for cut in [1, at, at + 1, at + 5, block.len()] {
            let (one, two) = block.split_at(cut.min(block.len()));
            let call = [frame(1, 0, 1, one), frame(9, 4, 1, two)].concat();
            let mut socket = UnixStream::connect(served.socket()).unwrap();
            let (kind, fields) = answer_to(&mut socket, call);
            assert_eq!((kind, fields[0]), (1, 0x88), "cut at {cut}");
        }
    }
}

/// Its ID may be another's by now, and whoever inherited the connection is not who made it.
fn who_is_gone_since_it_connected_gets_nothing() {
    let served = Served::start("  - { id: /one, selectors: { uid: 0 } }");
    let mut ours = connected_by_another(&served);
    let call = [CALL, b"@\x12workload.spiffe.io\x04true"].concat();
    let (kind, fields) = answer(&mut ours, &call);
    // The status and its text are plain or Huffman coded: code 14, Unavailable.
    assert_eq!((kind, fields[0]), (1, 0x88));
    let holds = |text: &[u8]| fields.windows(text.len()).any(|part| part == text);
    assert!(holds(&[0x82, 0x0b, 0x5f]) || holds(b"\x0214"), "{fields:x?}");
}

/// A connection that a process of its own has made, which has ended since.
pub(crate) fn connected_by_another(served: &Served) -> UnixStream {
    let ours = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let connected = std::process::Command::new(std::env::current_exe().unwrap())
        .env(CONNECT, served.socket())
        .stdin(ours.try_clone().unwrap())
        .status();
    assert!(connected.unwrap().success());
    ours.into()
}

/// In a process of its own: connects its standard input, and ends.
pub(crate) fn connect_if_asked() {
    if let Some(path) = std::env::var_os(CONNECT) {
        let address = UnixAddr::new(std::path::Path::new(&path)).unwrap();
        connect(std::os::fd::AsRawFd::as_raw_fd(&std::io::stdin()), &address).unwrap();
        std::process::exit(0);
    }
}
