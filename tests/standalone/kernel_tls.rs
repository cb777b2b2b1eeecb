//! Records that the kernel makes. Where it has no TLS, all these run in userspace, and must say so;
//! `scripts/qemu_ktls.sh` runs them on kernels that have it.

use std::{io::Write, net::Shutdown, process::Command, thread, time::Duration};

use crate::{
    backends::{Backend, Fading, dial},
    pattern::Pattern,
    peers::{Caller, ONLY12, ONLY13},
    pki::Pki,
    process::Adit,
};

/// Which path connections of TLS 1.2 and 1.3 must take on this kernel.
fn expected() -> [&'static str; 2] {
    match std::env::var("ADIT_EXPECT_KERNEL_TLS").as_deref() {
        Ok("tls12") => ["kernel", "userspace"],
        Ok("tls13") => ["kernel", "kernel"],
        _ => ["userspace", "userspace"],
    }
}

#[test]
fn the_log_says_who_makes_the_records() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for (flag, paths) in [("", expected()), ("--kernel-tls off", ["userspace", "userspace"])] {
        let adit = Adit::start(pki.server(echo.addr) + "--allow-all " + flag);
        for (versions, path) in [ONLY12, ONLY13].into_iter().zip(paths) {
            let seen = adit.lines();
            let caller = Caller::speaking(versions, &pki.ca, Some(&pki.app));
            // The application speaks in time for the kernel's first record to be data.
            let mut session = caller.dial(adit.addr).unwrap();
            thread::sleep(Duration::from_millis(200));
            for words in ["hello", "again"] {
                session.write_all(words.as_bytes()).unwrap();
                assert_eq!(session.hear(5).unwrap(), words.as_bytes());
            }
            session.end().unwrap();
            assert_eq!(session.rest().unwrap(), b"");
            adit.logs_since(seen, &format!("completed … tls.path=\"{path}\""));
        }
    }
}

/// adit is both ends of TLS; the application and the echo compare what they hear.
#[test]
fn bytes_arrive_as_they_were_sent_both_ways_at_once() {
    const BYTES: usize = 16 << 20;
    let (pki, echo) = (Pki::new(), Backend::echo());
    for flag in ["--max-tls-version TLS1.2", "--max-tls-version TLS1.3"] {
        let server = Adit::start(pki.server(echo.addr) + "--allow-all " + flag);
        let target = format!("localhost:{}", server.addr.port());
        let client = Adit::start(pki.client(target));
        let mut socket = dial(client.addr);
        let mut sending = socket.try_clone().unwrap();
        let sent = thread::spawn(move || {
            let mut pattern = Pattern::new(7);
            while pattern.at < BYTES {
                let next = pattern.next(100_003.min(BYTES - pattern.at));
                sending.write_all(next).unwrap();
            }
            sending.shutdown(Shutdown::Write).unwrap();
        });
        let (mut pattern, mut buffer) = (Pattern::new(7), vec![0; 64 * 1024]);
        loop {
            match crate::wait::read_once(&mut socket, &mut buffer).unwrap() {
                0 => break,
                n => pattern.expect(&buffer[..n]),
            }
        }
        sent.join().unwrap();
        assert_eq!(pattern.at, BYTES);
        server.logs("completed");
        client.logs("completed");
    }
}

/// adit is both ends of TLS, and either of them may be who cuts.
#[test]
fn a_half_closed_connection_lasts_while_it_moves_and_is_reset_when_it_is_silent() {
    let (pki, limit) = (Pki::new(), Duration::from_millis(1500));
    let cut = |version: &str, path: &str, flags: [&str; 2], which: usize| {
        let fading = Fading::start(limit);
        let version = format!(" --allow-all --max-tls-version {version} ");
        let server = Adit::start(pki.server(fading.addr()) + &version + flags[0]);
        let target = format!("localhost:{}", server.addr.port());
        let client = Adit::start(pki.client(target) + flags[1]);
        fading.is_cut(client.addr);
        let seen = [server, client];
        seen[which].logs("half_close_timeout … 1.5s");
        seen[0].logs(&format!("tls.path=\"{path}\""));
    };
    let flag = " --close-timeout 1500ms";
    let cut = &cut;
    thread::scope(|all| {
        for (version, path) in ["TLS1.2", "TLS1.3"].into_iter().zip(expected()) {
            all.spawn(move || cut(version, path, [flag, ""], 0));
            all.spawn(move || cut(version, path, ["", flag], 1));
        }
    });
}

/// rustls asks for an answer each time; what is in flight is opened under the right key.
#[test]
fn keys_change_in_the_middle_of_a_transfer() {
    const BYTES: usize = 4 << 20;
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    let mut session = Caller::speaking(ONLY13, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
    let (mut out, mut back) = (Pattern::new(3), Pattern::new(3));
    let mut buffer = vec![0; 64 * 1024];
    let mut updates = 0;
    while back.at < BYTES {
        if out.at < BYTES {
            if out.at / (256 * 1024) > updates {
                session.conn.refresh_traffic_keys().unwrap();
                updates += 1;
            }
            session.write_all(out.next(30_011.min(BYTES - out.at))).unwrap();
        }
        let want = buffer.len().min(out.at - back.at);
        let n = crate::wait::read_once(&mut session.0, &mut buffer[..want]).unwrap();
        back.expect(&buffer[..n]);
    }
    assert!(updates >= 15);
    session.end().unwrap();
    assert_eq!(session.rest().unwrap(), b"");
    adit.logs(&format!("completed … tls.path=\"{}\"", expected()[1]));
}

/// OpenSSL's `K` changes its keys and asks for ours to change.
#[test]
fn openssl_changes_keys() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    let (address, ca) = (adit.addr.to_string(), pki.at("ca.pem"));
    let (commands, mut to) = std::io::pipe().unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &address, "-CAfile", &ca, "-tls1_3"]);
    openssl.args(["-cert", &pki.at("app.crt"), "-key", &pki.at("app.key")]).stdin(commands);
    let openssl = Adit::launch(openssl);
    let mut seen = 0;
    // It takes a command only where a line begins with it, and reads what is there at once.
    for (line, said) in [
        ("first\n", "first"),
        ("K\n", "KEYUPDATE"),
        ("second\n", "second"),
        ("K\n", "KEYUPDATE"),
        ("third\n", "third"),
    ] {
        to.write_all(line.as_bytes()).unwrap();
        seen = openssl.line_since(seen, said).0 + 1;
    }
    to.write_all(b"Q\n").unwrap();
    openssl.exit_code();
}
