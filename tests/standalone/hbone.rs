//! HBONE on the wire: the two roles with each other, and whom they refuse.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    backends::{Backend, Fading, ask, dial, nobody, reset},
    pattern::Pattern,
    peers::{BOTH, Caller, Demand, tls_backend, tls_echo},
    pki::{Pki, as_app, as_server},
    process::{Adit, refused},
    wait::{LIMIT, wait_until},
};

const HALF_CLOSED: Duration = Duration::from_millis(1500);
const DB: &str = "--verify-id spiffe://td.test/db";

/// A server of tunnels in front of `target`, and a client into it that asks for `asked`.
fn pair(pki: &Pki, target: SocketAddr, asked: SocketAddr, flags: [&str; 2]) -> (Adit, Adit) {
    let server = Adit::start(format!("{} --tunnel hbone {}", pki.server(target), flags[0]));
    let client = Adit::start(into(pki, &server, asked) + flags[1]);
    (server, client)
}

/// The command line of a client into this server.
fn into(pki: &Pki, server: &Adit, asked: SocketAddr) -> String {
    let to = server.addr;
    format!("{} --tunnel hbone --tunnel-address {to} ", pki.client(asked))
}

#[test]
fn a_pair_carries_streams_in_shared_tunnels() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (server, client) = pair(&pki, echo.addr, echo.addr, ["--allow-cn app", DB]);
    let addr = client.addr;
    let talks: Vec<_> = (0..8)
        .map(|seed| {
            thread::spawn(move || {
                let mut socket = dial(addr);
                let (mut said, mut heard) = (Pattern::new(seed), Pattern::new(seed));
                let mut buffer = vec![0; 20_000];
                while said.at < 600_000 {
                    let words = said.next(20_000);
                    socket.write_all(words).unwrap();
                    socket.read_exact(&mut buffer[..words.len()]).unwrap();
                    heard.expect(&buffer[..words.len()]);
                }
                socket.shutdown(Shutdown::Write).unwrap();
                assert_eq!(crate::wait::read_once(&mut socket, &mut buffer).unwrap(), 0);
            })
        })
        .collect();
    talks.into_iter().for_each(|talk| talk.join().unwrap());
    wait_until("all are recorded", LIMIT, || server.count("reason=\"completed\"") == 8);
    server.logs("protocol=\"HBONE\" … tunnel=1 … policy=\"cn\" … TLSv1.3");
    client.logs("dst.identity=spiffe://td.test/db … tunnel=1 … completed");
    assert_eq!((client.stop(), server.stop()), (0, 0));
}

#[test]
fn half_closes_go_through_a_tunnel() {
    let (pki, counting) = (Pki::new(), Backend::counting());
    let (_server, client) = pair(&pki, counting.addr, counting.addr, ["--allow-all", DB]);
    assert_eq!(ask(client.addr, &[7; 200_000]).unwrap(), b"200000");
    let greeting = Backend::greeting("bye");
    let (_server, client) = pair(&pki, greeting.addr, greeting.addr, ["--allow-all", DB]);
    let mut socket = dial(client.addr);
    let mut heard = String::new();
    socket.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "bye");
    socket.write_all(b"and so on").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    client.logs("completed");
}

#[test]
fn a_half_closed_stream_lasts_while_it_moves_and_is_reset_when_it_is_silent() {
    let pki = Pki::new();
    let cut = |flags: [&str; 2], which: usize| {
        let fading = Fading::start(HALF_CLOSED);
        let (server, client) = pair(&pki, fading.addr(), fading.addr(), flags);
        fading.is_cut(client.addr);
        [server, client][which].logs("half_close_timeout … 1.5s");
    };
    let by_client = format!("{DB} --close-timeout 1500ms");
    thread::scope(|all| {
        all.spawn(|| cut(["--allow-all --close-timeout 1500ms", DB], 0));
        all.spawn(|| cut(["--allow-all", &by_client], 1));
    });
}

#[test]
fn resets_go_through_a_tunnel_and_hurt_no_other_stream() {
    let pki = Pki::new();
    let (told, heard) = mpsc::channel();
    let backend = Backend::start(move |mut socket| {
        let mut first = [0];
        let _ = socket.read_exact(&mut first);
        match first[0] {
            b'r' => reset(socket),
            _ => {
                let end = socket.read_to_end(&mut Vec::new()).map_err(|e| e.kind());
                let _ = told.send(end);
            }
        }
    });
    let (_server, client) = pair(&pki, backend.addr, backend.addr, ["--allow-all", DB]);
    let mut bystander = dial(client.addr);
    bystander.write_all(b"b").unwrap();
    let mut socket = dial(client.addr);
    socket.write_all(b"r").unwrap();
    let end = crate::wait::read_once(&mut socket, &mut [0; 1]).map_err(|e| e.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    let mut socket = dial(client.addr);
    socket.write_all(b"a").unwrap();
    wait_until("all are through", LIMIT, || backend.taken() == 3);
    reset(socket);
    assert_eq!(heard.recv().unwrap(), Err(ErrorKind::ConnectionReset));
    bystander.write_all(b"still here").unwrap();
    bystander.shutdown(Shutdown::Write).unwrap();
    assert_eq!(heard.recv().unwrap(), Ok(10));
}

/// What the application behind a client is told: a reset, whatever the reason.
fn refuses(client: &Adit, backend: &Backend, reason: &str) {
    let heard = ask(client.addr, b"hello");
    assert!(heard.is_err(), "{heard:?}");
    client.logs(reason);
    assert_eq!(backend.taken(), 0);
}

#[test]
fn a_caller_that_no_rule_names_is_refused() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (server, client) = pair(&pki, echo.addr, echo.addr, ["--allow-cn nobody", DB]);
    refuses(&client, &echo, "peer_denied");
    server.logs("policy_denied … spiffe://td.test/apps/billing/7");
}

#[test]
fn a_server_with_another_id_is_refused() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let other = "--verify-id spiffe://td.test/other";
    let (_server, client) = pair(&pki, echo.addr, echo.addr, ["--allow-all", other]);
    refuses(&client, &echo, "identity_mismatch");
}

#[test]
fn a_caller_of_another_ca_is_refused() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let server = Adit::start(pki.server(echo.addr) + "--tunnel hbone --allow-all");
    pki.put("app", &Pki::stranger().leaf("app", as_app));
    let client = Adit::start(into(&pki, &server, echo.addr) + DB);
    refuses(&client, &echo, "direction");
    server.logs("untrusted_svid");
}

#[test]
fn another_port_than_that_of_the_target_is_refused() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (server, client) = pair(&pki, echo.addr, nobody(), ["--allow-all", DB]);
    refuses(&client, &echo, "peer_refused");
    server.logs("bad_connect … the port in :authority");
}

#[test]
fn another_address_than_the_one_called_is_refused() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let asked = SocketAddr::from(([127, 0, 0, 2], echo.addr.port()));
    let (server, client) = pair(&pki, echo.addr, asked, ["--allow-all", DB]);
    refuses(&client, &echo, "peer_refused");
    server.logs("bad_connect … not the address that was called");
}

#[test]
fn a_backend_that_is_down_is_told_to_the_caller() {
    let (pki, gone) = (Pki::new(), nobody());
    let (server, client) = pair(&pki, gone, gone, ["--allow-all", DB]);
    assert!(ask(client.addr, b"hello").is_err());
    client.logs("peer_refused … 503");
    server.logs("connect_failure");
}

#[test]
fn plain_tls_and_hbone_do_not_take_each_other_for_their_own() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let server = Adit::start(pki.server(echo.addr) + "--tunnel hbone --allow-all");
    let heard = Caller::new(&pki.ca, Some(&pki.app)).says(server.addr, "hello");
    assert!(heard.is_ok_and(|heard| heard != "hello"), "it speaks HTTP/2");
    server.logs("tunnel_failure … not an HTTP/2 preface");
    assert_eq!(echo.taken(), 0);
    let plain = tls_backend(BOTH, &pki.server, Demand::Nothing, tls_echo);
    let client = Adit::start(format!(
        "{} --tunnel hbone --tunnel-address {} --connect-timeout 2s {DB}",
        pki.client(echo.addr),
        plain.addr
    ));
    assert!(ask(client.addr, b"hello").is_err());
    client.logs("direction … error");
}

#[test]
fn a_revoked_caller_gets_no_tunnel() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let app = pki.ca.leaf("app", |params| {
        as_app(params);
        params.serial_number = Some(rcgen::SerialNumber::from(31));
    });
    pki.put("app", &app);
    pki.write("revoked.crl", pki.ca.crl(&[31]));
    let flags = format!("--allow-all --crl {}", pki.at("revoked.crl"));
    let (server, client) = pair(&pki, echo.addr, echo.addr, [&flags, DB]);
    refuses(&client, &echo, "direction");
    server.logs("svid_revoked");
}

#[test]
fn a_caller_that_is_revoked_later_is_put_out() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let app = pki.ca.leaf("app", |params| {
        as_app(params);
        params.serial_number = Some(rcgen::SerialNumber::from(32));
    });
    pki.put("app", &app);
    pki.write("revoked.crl", pki.ca.crl(&[1]));
    let flags = format!("--allow-all --crl {}", pki.at("revoked.crl"));
    let (server, client) = pair(&pki, echo.addr, echo.addr, [&flags, DB]);
    let mut open = dial(client.addr);
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    pki.write("revoked.crl", pki.ca.crl(&[1, 32]));
    server.signal(Signal::SIGHUP);
    server.logs("reloaded");
    assert!(crate::wait::read_once(&mut open, &mut [0; 1]).is_err(), "and what was open is closed");
    server.logs("no longer trusted");
    assert!(ask(client.addr, b"hello").is_err());
    assert_eq!(echo.taken(), 1);
}

/// A tunnel outlives the certificate that made it; what is new in it does not.
#[test]
fn a_caller_whose_certificate_ends_opens_nothing_more() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    // Longer where a busy machine does not open anything while it lasts.
    let opened = [3, 9, 27].into_iter().find_map(|lasts| {
        let short = pki.ca.leaf("app", |params| {
            as_app(params);
            params.not_after = time::OffsetDateTime::now_utc() + Duration::from_secs(lasts);
        });
        pki.put("app", &short);
        let (server, client) = pair(&pki, echo.addr, echo.addr, ["--allow-all", DB]);
        let mut open = dial(client.addr);
        let said = open.write_all(b"hello").and_then(|()| open.read_exact(&mut [0; 5]));
        said.is_ok().then_some((server, client, open))
    });
    let (server, client, _open) = opened.expect("opened while the certificate lasts");
    wait_until("nobody is let in", LIMIT, || ask(client.addr, b"hello").is_err());
    server.logs("svid_expired");
}

#[test]
fn a_server_that_is_revoked_later_is_left() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let db = pki.ca.leaf("server", |params| {
        as_server(params);
        params.serial_number = Some(rcgen::SerialNumber::from(33));
    });
    pki.put("server", &db);
    pki.write("revoked.crl", pki.ca.crl(&[1]));
    let flags = format!("{DB} --crl {}", pki.at("revoked.crl"));
    let (_server, client) = pair(&pki, echo.addr, echo.addr, ["--allow-all", &flags]);
    let mut open = dial(client.addr);
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    pki.write("revoked.crl", pki.ca.crl(&[1, 33]));
    client.signal(Signal::SIGHUP);
    client.logs("reloaded");
    assert!(crate::wait::read_once(&mut open, &mut [0; 1]).is_err());
    assert!(ask(client.addr, b"hello").is_err());
    client.logs("svid_revoked");
    assert_eq!(echo.taken(), 1);
}

#[test]
fn a_connection_in_a_tunnel_lives_for_so_long() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let limit = "--max-conn-lifetime 400ms";
    for flags in [[&format!("--allow-all {limit}"), DB], ["--allow-all", &format!("{DB} {limit}")]]
    {
        let (server, client) = pair(&pki, echo.addr, echo.addr, flags);
        let mut socket = dial(client.addr);
        while socket.write_all(b"x").and_then(|()| socket.read_exact(&mut [0])).is_ok() {}
        wait_until("it is recorded", LIMIT, || {
            server.count("lifetime_reached") + client.count("lifetime_reached") == 1
        });
    }
}

#[test]
fn a_drain_lets_streams_of_a_tunnel_end() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (server, client) = pair(&pki, echo.addr, echo.addr, ["--allow-all", DB]);
    let mut socket = dial(client.addr);
    socket.write_all(b"hello").unwrap();
    socket.read_exact(&mut [0; 5]).unwrap();
    for adit in [&server, &client] {
        adit.signal(Signal::SIGTERM);
        adit.logs("draining");
    }
    socket.write_all(b"still").unwrap();
    let mut heard = [0; 5];
    socket.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still");
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(crate::wait::read_once(&mut socket, &mut heard).unwrap(), 0);
    assert_eq!((client.exit_code(), server.exit_code()), (0, 0));
}

#[test]
fn idle_tunnels_keep_nobody_from_ending() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (server, client) = pair(&pki, echo.addr, echo.addr, ["--allow-all", DB]);
    assert_eq!(ask(client.addr, b"hello").unwrap(), b"hello");
    assert_eq!((server.stop(), client.stop()), (0, 0));
}

#[test]
fn a_tunnel_is_made_anew_when_the_server_was() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (server, client) = pair(&pki, echo.addr, echo.addr, ["--allow-all", DB]);
    assert_eq!(ask(client.addr, b"hello").unwrap(), b"hello");
    let at = server.addr;
    assert_eq!(server.stop(), 0);
    assert!(ask(client.addr, b"hello").is_err());
    let again = pki.server(echo.addr).replace("127.0.0.1:0", &at.to_string());
    let _server = Adit::start(again + "--allow-all --tunnel hbone");
    assert_eq!(ask(client.addr, b"hello").unwrap(), b"hello");
}

#[test]
fn the_target_may_be_told_who_calls() {
    let pki = Pki::new();
    let (told, heard) = mpsc::channel();
    let backend = Backend::start(move |mut socket| {
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        let _ = told.send(all);
    });
    let flags = "--allow-all --proxy-protocol-mode v1";
    let (_server, client) = pair(&pki, backend.addr, backend.addr, [flags, DB]);
    ask(client.addr, b"hello").unwrap();
    let all = String::from_utf8(heard.recv().unwrap()).unwrap();
    assert!(all.starts_with("PROXY TCP4 127.0.0.1 ") && all.ends_with("\r\nhello"), "{all}");
}

#[test]
fn flags_that_mean_nothing_in_a_tunnel_are_refused() {
    let pki = Pki::new();
    let pin = format!("sha256:{}", "A".repeat(43) + "=");
    let server = pki.server("127.0.0.1:1") + "--tunnel hbone";
    let client = pki.client("127.0.0.1:1") + "--tunnel hbone";
    for (args, says) in [
        (client.clone(), "--verify-id"),
        (format!("{client} {DB} --verify-cn x"), "other than --verify-id"),
        (format!("{client} {DB} --disable-authentication"), "--disable-authentication"),
        (format!("{client} {DB} --override-server-name x"), "--override-server-name"),
        (format!("{client} {DB} --max-tls-version TLS1.2"), "--max-tls-version"),
        (format!("{server} --allow-all --accept-proxy-protocol"), "--accept-proxy-protocol"),
        (format!("{server} --allow-spki-pin {pin}"), "--allow-spki-pin"),
        (format!("{server} --disable-authentication"), "--disable-authentication"),
        (format!("{server} --allow-all --max-tls-version TLS1.2"), "--max-tls-version"),
    ] {
        let (code, error) = refused(&args);
        assert!(code == 1 && error.contains(says), "{args}\n{code}: {error}");
    }
}

#[test]
fn a_certificate_that_is_no_svid_is_told_of_at_start() {
    let pki = Pki::new();
    pki.put("server", &pki.ca.leaf("server", |_| {}));
    let (code, error) = refused(&(pki.server("127.0.0.1:1") + "--allow-all --tunnel hbone"));
    assert!(code == 1 && error.contains("X.509-SVID"), "{error}");
}

/// A gateway on `:PORT` is one socket for both families, where IPv4 comes in IPv6's dress.
#[test]
fn a_policy_by_address_holds_at_a_gateway_for_both_families() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for (block, admitted) in
        [("127.0.0.0/8", false), ("::ffff:127.0.0.0/104", false), ("10.0.0.0/8", true)]
    {
        for when in ["source.ip", "ipBlocks"] {
            let rule = match when {
                "ipBlocks" => format!("from: [{{ source: {{ ipBlocks: ['{block}'] }} }}]"),
                key => format!("when: [{{ key: {key}, values: ['{block}'] }}]"),
            };
            let text = format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {{ name: d }}\nspec: {{ action: DENY, rules: [{{ {rule} }}] }}\n"
            );
            pki.write("deny.yaml", text);
            let server = Adit::start(format!(
                "server --listen :0 --target {} {} --tunnel hbone --allow-all \
                 --allow-authorization-policy {}",
                echo.addr,
                pki.showing("server"),
                pki.at("deny.yaml")
            ));
            let to = SocketAddr::from(([127, 0, 0, 1], server.addr.port()));
            let gateway = format!("--tunnel hbone --tunnel-address {to} {DB}");
            let client = Adit::start(format!("{} {gateway}", pki.client(echo.addr)));
            let taken = echo.taken();
            let heard = ask(client.addr, b"hello");
            assert_eq!(heard.is_ok_and(|h| h == b"hello"), admitted, "{block} by {when}");
            if admitted {
                server.logs("completed … src.addr=127.0.0.1:");
            } else {
                server.logs("policy_denied … src.addr=127.0.0.1:");
                assert_eq!(echo.taken(), taken, "the application heard of it");
            }
        }
    }
}
