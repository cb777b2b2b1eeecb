//! Errors in people's words: what is wrong, and with whose certificate.

use crate::world::{Adit, Backend, World, free_port};

#[test]
fn a_handshake_that_fails_says_why_and_whom_the_certificate_names() {
    let (world, other) = (World::new(), World::new());
    // They trust us, and we do not trust their CA, which has the name of ours.
    other.write("ca.crt", &std::fs::read_to_string(world.file("ca.crt")).unwrap());
    other.sign("app", "app", Some("spiffe://other.td/ns/a/sa/b"));
    other.sign("plain", "somebody", None);
    let (db, port) = (Backend::start("db"), free_port());
    let mut adit = Adit::proxy(&world, &world.server("s", port, db.addr, "allow: { all: true }"));
    for (name, named) in [("app", "spiffe://other.td/ns/a/sa/b"), ("plain", "CN=somebody")] {
        assert!(other.call(name, port).is_err());
        let line = adit.wait("is not by the key that it should be by");
        assert!(line.contains("(BadSignature)"), "{line}");
        assert!(line.contains("its certificate names") && line.contains(named), "{line}");
    }
    // Not TLS at all.
    let mut plain = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    std::io::Write::write_all(&mut plain, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    adit.wait("bytes that are not TLS");
}
