//! Connections on which nothing moves, with a limit on that at either end of either wire.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread::sleep,
    time::Duration,
};

use crate::{
    backends::{Backend, dial},
    pki::Pki,
    process::Adit,
};

fn talk(socket: &mut TcpStream) {
    socket.write_all(b"x").unwrap();
    socket.read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn a_silent_connection_ends_where_that_is_asked_for_and_one_that_talks_stays() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let limited = &|wire: &str, which: usize| {
        let limit = |n| if n == which { "--idle-timeout 3s" } else { "" };
        let flags = format!("--allow-all {wire} {}", limit(0));
        let server = Adit::start(pki.server(echo.addr) + &flags);
        let (target, gateway) = match wire {
            "" => (server.addr, String::new()),
            _ => (echo.addr, format!("--tunnel-address {}", server.addr)),
        };
        let verify = "--verify-id spiffe://td.test/db";
        let flags = format!("{verify} {wire} {gateway} {}", limit(1));
        let client = Adit::start(pki.client(target) + &flags);
        let (mut silent, mut talks) = (dial(client.addr), dial(client.addr));
        talk(&mut silent);
        for _ in 0..12 {
            talk(&mut talks);
            sleep(Duration::from_millis(500));
        }
        assert!(
            crate::wait::read_once(&mut silent, &mut [0; 1]).is_err(),
            "{wire}: a cut looks like a cut"
        );
        let limited = [&server, &client][which];
        limited.logs("connection failed … idle_timeout … idle for 3s");
        talk(&mut talks);
        assert_eq!(limited.count("idle_timeout"), 1, "{wire}");
    };
    std::thread::scope(|all| {
        for wire in ["", "--tunnel hbone"] {
            all.spawn(move || limited(wire, 0));
            all.spawn(move || limited(wire, 1));
        }
    });
}
