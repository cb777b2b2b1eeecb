//! Bytes on the wire that clients of tonic do not send.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use super::{harness::Test, served::Served};

pub(crate) const TESTS: &[Test] = &[(
    "grpcs_c_library_names_the_socket_by_its_path",
    grpcs_c_library_names_the_socket_by_its_path,
)];

/// What grpcio 1.85 sends for a call on `unix:/tmp/a.sock`, without the security header.
const CALL: &[u8] =
    b"@\x05:path\x20/SpiffeWorkloadAPI/FetchX509SVID@\x0a:authority\x0ctmp%2Fa.sock\
    \x83\x86@\x0ccontent-type\x10application/grpc@\x02te\x08trailers";

/// The kind of the first frame on a stream, and its payload.
fn answer(served: &Served, block: &[u8]) -> (u8, Vec<u8>) {
    let mut socket = UnixStream::connect(served.socket()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let frame = |kind, flags, stream, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let message = frame(0, 1, 1, &[0; 5]);
    socket
        .write_all(&[start, frame(4, 0, 0, &[]), frame(1, 4, 1, block), message].concat())
        .unwrap();
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
    let (kind, fields) = answer(&served, CALL);
    assert_eq!(kind, 1, "HEADERS, not RST_STREAM: {fields:?}");
    // :status 200, as every answer of gRPC.
    assert_eq!(fields[0], 0x88);
}
