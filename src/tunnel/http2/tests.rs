use std::time::Instant;

use super::*;

#[test]
fn a_connection_begins_with_preface_and_settings() {
    let mut client = Http2::new(Role::Client, Limits::default(), Instant::now());
    assert!(client.take_control().starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x18\x04"));
    let mut server = Http2::new(Role::Server, Limits::default(), Instant::now());
    assert!(server.take_control().starts_with(b"\0\0\x18\x04\0\0\0\0\0"));
}
