//! Who is no longer trusted is put out, whatever the wire and whatever else goes on; others stay.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use nix::sys::signal::Signal;

use crate::{
    backends::{Backend, ask, dial},
    peers::Caller,
    pki::{Leaf, Pki, as_app, as_server, uri},
    ports::free,
    process::Adit,
    wait::{LIMIT, wait_until},
};

const DB: &str = "--verify-id spiffe://td.test/db";

/// A leaf with this serial number and SPIFFE ID.
fn numbered(pki: &Pki, serial: u64, id: &str) -> Leaf {
    pki.ca.leaf("app", |params| {
        as_app(params);
        params.subject_alt_names = vec![uri(id)];
        params.serial_number = Some(rcgen::SerialNumber::from(serial));
    })
}

/// What the application behind a client has open, once it has answered.
fn open(addr: SocketAddr) -> TcpStream {
    let mut socket = dial(addr);
    assert!(answers(&mut socket), "it is open");
    socket
}

fn answers(socket: &mut TcpStream) -> bool {
    socket.write_all(b"hello").and_then(|()| socket.read_exact(&mut [0; 5])).is_ok()
}

/// Both wires: plain TLS, and HBONE.
fn wires() -> [(&'static str, String); 2] {
    [("TLS", String::new()), ("HBONE", " --tunnel hbone ".to_owned())]
}

const HBONE: &str = "tunnel: { protocol: hbone }, ";

/// A server on this wire, and clients that show these.
fn company(
    pki: &Pki,
    echo: &Backend,
    wire: &str,
    flags: [&str; 2],
    shown: &[&str],
) -> (Adit, Vec<Adit>) {
    let server = Adit::start(format!("{} {wire} {}", pki.server(echo.addr), flags[0]));
    let clients = clients(pki, echo, wire, flags[1], shown, server.addr);
    (server, clients)
}

/// Clients of the server at `to` that show these.
fn clients(
    pki: &Pki,
    echo: &Backend,
    wire: &str,
    flags: &str,
    shown: &[&str],
    to: SocketAddr,
) -> Vec<Adit> {
    let clients = shown.iter().map(|name| {
        let target = if wire.is_empty() { to } else { echo.addr };
        let gateway =
            if wire.is_empty() { String::new() } else { format!("--tunnel-address {to}") };
        let name = pki.showing(name);
        let at = format!("client --listen 127.0.0.1:0 --target {target} {name}");
        Adit::start(format!("{at} {wire} {gateway} {DB} {flags}"))
    });
    clients.collect()
}

#[test]
fn a_caller_that_is_revoked_is_put_out_and_its_neighbour_stays() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for (serial, name) in [(41, "good"), (42, "bad")] {
        pki.put(name, &numbered(&pki, serial, &format!("spiffe://td.test/{name}")));
    }
    for kernel in ["auto", "off"] {
        for (wire, flag) in wires() {
            pki.write("revoked.crl", pki.ca.crl(&[1]));
            let crl = format!("--allow-all --kernel-tls {kernel} --crl {}", pki.at("revoked.crl"));
            let (server, clients) = company(&pki, &echo, &flag, [&crl, ""], &["good", "bad"]);
            let (mut good, mut bad) = (open(clients[0].addr), open(clients[1].addr));
            pki.write("revoked.crl", pki.ca.crl(&[1, 42]));
            server.signal(Signal::SIGHUP);
            assert!(
                crate::wait::read_once(&mut bad, &mut [0; 1]).is_err(),
                "{wire}: a cut looks like a cut"
            );
            server.logs("connection denied … svid_revoked");
            assert!(answers(&mut good), "{wire}");
        }
    }
}

#[test]
fn a_server_that_is_revoked_is_left() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    pki.put(
        "server",
        &pki.ca.leaf("server", |params| {
            as_server(params);
            params.serial_number = Some(rcgen::SerialNumber::from(43));
        }),
    );
    for (wire, flag) in wires() {
        pki.write("revoked.crl", pki.ca.crl(&[1]));
        let crl = format!("--crl {}", pki.at("revoked.crl"));
        let (_server, clients) = company(&pki, &echo, &flag, ["--allow-all", &crl], &["app"]);
        let mut socket = open(clients[0].addr);
        pki.write("revoked.crl", pki.ca.crl(&[1, 43]));
        clients[0].signal(Signal::SIGHUP);
        assert!(crate::wait::read_once(&mut socket, &mut [0; 1]).is_err(), "{wire}");
        clients[0].logs("connection denied … svid_revoked");
    }
}

#[test]
fn a_root_that_is_taken_away_takes_its_callers_along() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let other = Pki::stranger();
    pki.put("other", &other.leaf("other", as_app));
    pki.write("both.pem", pki.ca.pem().to_owned() + other.pem());
    let roots = pki.server(echo.addr).replace("ca.pem", "both.pem");
    let server = Adit::start(roots + "--allow-all");
    let client = |name: &str| {
        let shown = pki.showing(name);
        Adit::start(format!("client --listen 127.0.0.1:0 --target {} {shown}", server.addr))
    };
    let (ours, theirs) = (client("app"), client("other"));
    let (mut stays, mut goes) = (open(ours.addr), open(theirs.addr));
    pki.write("both.pem", pki.ca.pem());
    server.signal(Signal::SIGHUP);
    assert!(crate::wait::read_once(&mut goes, &mut [0; 1]).is_err());
    server.logs("connection denied … untrusted_svid");
    assert!(answers(&mut stays));
}

/// A draining process holds whom it still serves to what is trusted now.
#[test]
fn a_caller_that_is_revoked_does_not_stay_because_others_drain() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for (serial, name) in [(44, "good"), (45, "bad")] {
        pki.put(name, &numbered(&pki, serial, &format!("spiffe://td.test/{name}")));
    }
    for (wire, flag) in wires() {
        pki.write("revoked.crl", pki.ca.crl(&[1]));
        let crl = format!("--allow-all --crl {}", pki.at("revoked.crl"));
        let (server, clients) = company(&pki, &echo, &flag, [&crl, ""], &["good", "bad"]);
        let (mut good, mut bad) = (open(clients[0].addr), open(clients[1].addr));
        server.signal(Signal::SIGTERM);
        server.logs("draining");
        pki.write("revoked.crl", pki.ca.crl(&[1, 45]));
        assert!(crate::wait::read_once(&mut bad, &mut [0; 1]).is_err(), "{wire}");
        server.logs("connection denied … svid_revoked");
        assert!(answers(&mut good), "{wire}");
    }
}

#[test]
fn a_ban_puts_out_whom_it_names_and_nobody_else_until_it_is_lifted() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for (serial, name) in [(46, "good"), (47, "bad")] {
        pki.put(name, &numbered(&pki, serial, &format!("spiffe://td.test/{name}")));
    }
    for (wire, flag) in wires() {
        pki.write("bans", "# nobody yet\n");
        let bans = format!("--allow-all --bans {}", pki.at("bans"));
        let (server, clients) = company(&pki, &echo, &flag, [&bans, ""], &["good", "bad"]);
        let (mut good, mut bad) = (open(clients[0].addr), open(clients[1].addr));
        pki.write("bans", "spiffe://td.test/bad # since today\n");
        assert!(crate::wait::read_once(&mut bad, &mut [0; 1]).is_err(), "{wire}");
        server.logs("connection denied … identity_banned … spiffe://td.test/bad is banned");
        assert!(ask(clients[1].addr, b"hello").is_err(), "{wire}: nor does it come back");
        assert!(answers(&mut good), "{wire}");
        let seen = server.lines();
        pki.write("bans", "spiffe://td.test/good\nnobody\n");
        server.logs_since(seen, "bans:2 … keeping the previous ones");
        assert!(answers(&mut good) && ask(clients[1].addr, b"hello").is_err(), "{wire}");
        pki.write("bans", "");
        wait_until("the ban is lifted", LIMIT, || ask(clients[1].addr, b"hello").is_ok());
    }
}

/// A draining process, or a service that was edited away, holds whom it still serves to its bans.
#[test]
fn a_ban_counts_while_others_drain() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for (serial, name) in [(48, "good"), (49, "bad")] {
        pki.put(name, &numbered(&pki, serial, &format!("spiffe://td.test/{name}")));
    }
    for (wire, flag) in wires() {
        pki.write("bans", "");
        let bans = format!("--allow-all --bans {}", pki.at("bans"));
        let (server, clients) = company(&pki, &echo, &flag, [&bans, ""], &["good", "bad"]);
        let (mut good, mut bad) = (open(clients[0].addr), open(clients[1].addr));
        server.signal(Signal::SIGTERM);
        server.logs("draining");
        pki.write("bans", "spiffe://td.test/bad\n");
        assert!(crate::wait::read_once(&mut bad, &mut [0; 1]).is_err(), "{wire}");
        server.logs("connection denied … identity_banned");
        assert!(answers(&mut good), "{wire}");
    }
}

/// A certificate with two names proves no SPIFFE ID, and is admitted by its common name: a ban of
/// one of them counts.
#[test]
fn a_ban_counts_for_every_name_that_is_shown() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let two = pki.ca.leaf("app", |params| {
        params.subject_alt_names = vec![uri("spiffe://td.test/bad"), uri("https://example.org/")];
    });
    pki.write("bans", "spiffe://td.test/other\n");
    let flags = format!("--allow-cn app --bans {}", pki.at("bans"));
    let server = Adit::start(pki.server(echo.addr) + &flags);
    let caller = Caller::new(&pki.ca, Some(&two));
    assert_eq!(caller.says(server.addr, "hello").unwrap(), "hello");
    let seen = server.lines();
    pki.write("bans", "spiffe://td.test/bad\n");
    server.logs_since(seen, "bans reloaded");
    assert!(caller.says(server.addr, "hello").is_err());
    server.logs("connection denied … identity_banned");
}

/// The same of a policy that denies: it is asked about each name.
#[test]
fn a_deny_counts_for_every_name_that_is_shown() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let with = |names: &[&str]| {
        pki.ca.leaf("app", |params| {
            params.subject_alt_names = names.iter().map(|name| uri(name)).collect();
        })
    };
    pki.write(
        "deny.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: d }\n\
         spec: { action: DENY, rules: [{ from: [{ source: { principals: ['td.test/bad'] } }] }] \
         }\n",
    );
    let flags = format!("--allow-cn app --allow-authorization-policy {}", pki.at("deny.yaml"));
    let server = Adit::start(pki.server(echo.addr) + &flags);
    for (names, admitted) in [
        (&["spiffe://td.test/good"][..], true),
        (&["spiffe://td.test/bad"], false),
        (&["spiffe://td.test/good", "https://example.org/"], true),
        (&["spiffe://td.test/bad", "https://example.org/"], false),
        (&["spiffe://td.test/good", "spiffe://td.test/bad"], false),
    ] {
        let heard = Caller::new(&pki.ca, Some(&with(names))).says(server.addr, "hello");
        assert_eq!(heard.is_ok(), admitted, "{names:?}");
    }
    wait_until("three refusals", LIMIT, || server.count("policy_denied") == 3);
}

/// The same while it is open, when policies change: an ALLOW, a DENY, and who is denied by one of
/// several names.
#[test]
fn a_deny_closes_whom_it_names_by_whatever_name() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let with = |names: &[&str]| {
        pki.ca.leaf("app", |params| {
            params.subject_alt_names = names.iter().map(|name| uri(name)).collect();
        })
    };
    let policy = |denied: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: d }}\n\
             spec: {{ action: DENY, rules: [{{ from: [{{ source: {{ principals: ['{denied}'] }} \
             }}] \
             }}] }}\n"
        )
    };
    pki.write("deny.yaml", policy("td.test/nobody"));
    let flags = format!("--allow-cn app --allow-authorization-policy {}", pki.at("deny.yaml"));
    let server = Adit::start(pki.server(echo.addr) + &flags);
    let open = |names: &[&str]| {
        let mut session = Caller::new(&pki.ca, Some(&with(names))).dial(server.addr).unwrap();
        assert!(heard(&mut session.0), "{names:?}");
        session
    };
    let mut one = open(&["spiffe://td.test/bad"]);
    let mut with_url = open(&["spiffe://td.test/bad", "https://example.org/"]);
    let mut second = open(&["spiffe://td.test/good", "spiffe://td.test/bad"]);
    let mut good = open(&["spiffe://td.test/good", "https://example.org/"]);
    pki.write("deny.yaml", policy("td.test/bad"));
    wait_until("three are closed", LIMIT, || server.count("policy_changed") == 3);
    for (closed, name) in [(&mut one, "one"), (&mut with_url, "URL"), (&mut second, "second")] {
        assert!(!heard(&mut closed.0), "{name}");
    }
    server.logs("policy_changed … closed due to policy change: explicitly denied by");
    assert!(heard(&mut good.0));
}

fn heard(session: &mut (impl Read + Write)) -> bool {
    session.write_all(b"hello").and_then(|()| session.read_exact(&mut [0; 5])).is_ok()
}

/// Each certificate of a chain costs signatures to check.
#[test]
fn a_chain_without_end_is_refused() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let server = Adit::start(pki.server(echo.addr) + "--allow-all");
    let mut long = pki.app.clone();
    long.chain.extend(std::iter::repeat_n(pki.ca.root.clone(), 16));
    let heard = Caller::new(&pki.ca, Some(&long)).says(server.addr, "hello");
    assert!(heard.is_err());
    server.logs("direction … more than 16 certificates");
    assert_eq!(echo.taken(), 0);
}

#[test]
fn a_server_that_is_banned_is_left() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for (wire, flag) in wires() {
        pki.write("bans", "");
        let bans = format!("--bans {}", pki.at("bans"));
        let (_server, clients) = company(&pki, &echo, &flag, ["--allow-all", &bans], &["app"]);
        let mut socket = open(clients[0].addr);
        pki.write("bans", "spiffe://td.test/db\n");
        assert!(crate::wait::read_once(&mut socket, &mut [0; 1]).is_err(), "{wire}");
        clients[0].logs("connection denied … identity_banned");
        assert!(ask(clients[0].addr, b"hello").is_err(), "{wire}");
    }
}

#[test]
fn a_certificate_that_has_run_out_ends_connections_where_that_is_asked_for() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for (wire, flag) in wires() {
        let short = pki.ca.leaf("app", |params| {
            as_app(params);
            params.not_after = time::OffsetDateTime::now_utc() + Duration::from_secs(8);
        });
        pki.put("short", &short);
        let start = |flags: &str| company(&pki, &echo, &flag, [flags, ""], &["short"]);
        let (kept, patient) = start("--allow-all");
        let (server, clients) = start("--allow-all --peer-expiry-grace 500ms");
        let (mut stays, mut goes) = (open(patient[0].addr), open(clients[0].addr));
        assert!(crate::wait::read_once(&mut goes, &mut [0; 1]).is_err(), "{wire}");
        server.logs("connection denied … svid_expired");
        assert!(answers(&mut stays), "{wire}");
        drop(kept);
    }
}

#[test]
fn a_host_name_of_somebody_else_is_refused() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let port = echo.addr.port();
    let flags = "--tunnel hbone --allow-all --tunnel-authority alias.example";
    let server = Adit::start(pki.server(echo.addr) + flags);
    for (name, taken) in [
        ("other.example", false),
        ("db.example.org.evil.example", false),
        ("db.example.org", true),
        ("DB.example.ORG", true),
        ("alias.example", true),
        ("localhost", true),
    ] {
        let (showing, to) = (pki.showing("app"), server.addr);
        let client = Adit::start(format!(
            "client --listen 127.0.0.1:0 --target {name}:{port} {showing} --skip-resolve \
             --tunnel hbone --tunnel-address {to} {DB}"
        ));
        let heard = ask(client.addr, b"hello");
        assert_eq!(heard.is_ok_and(|heard| heard == b"hello"), taken, "{name}");
        if !taken {
            server.logs("authority_mismatch … --tunnel-authority");
        }
    }
    assert_eq!(echo.taken(), 4);
}

/// An edit that admits fewer counts for who is open: they are closed at once, the others drain, and
/// what is banned afterwards counts for those too.
#[test]
fn an_edit_closes_whom_it_no_longer_admits_and_others_drain() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let names = ["good", "bad", "worse", "worst"];
    for (serial, name) in (60..).zip(names) {
        pki.put(name, &numbered(&pki, serial, &format!("spiffe://td.test/{name}")));
    }
    for (wire, flag) in wires() {
        let (port, tunnel) = (free().port(), if flag.is_empty() { "" } else { HBONE });
        let credential = credential(&pki, "server");
        let edit = |rules: &str| {
            let text = format!(
                "services:
- {{ name: s, mode: server, listen: '127.0.0.1:{port}',                  target: '{}', {tunnel}{credential}, {rules} }}
drain: {{ deadline: 60s }}
",
                echo.addr
            );
            pki.write("services.yaml", text);
        };
        let ids = |names: &[&str]| {
            let ids = names.iter().map(|name| format!("'spiffe://td.test/{name}'"));
            format!("allow: {{ ids: [{}] }}", ids.collect::<Vec<_>>().join(", "))
        };
        edit(&ids(&names));
        let server = Adit::start(format!("proxy -c {}", pki.at("services.yaml")));
        let clients = clients(&pki, &echo, &flag, "", &names, server.addr);
        let mut open: Vec<TcpStream> = clients.iter().map(|client| open(client.addr)).collect();
        let is_cut = |socket: &mut TcpStream, since: Instant, reason: &str| {
            assert!(crate::wait::read_once(socket, &mut [0; 1]).is_err(), "{wire}: {reason}");
            let took = since.elapsed();
            assert!(took < Duration::from_secs(2), "{wire}: {reason} after {took:?}");
            server.logs(&format!("connection denied … {reason}"));
        };
        let edited = |rules: &str| {
            let seen = server.lines();
            edit(rules);
            server.logs_since(seen, "configuration reloaded");
            Instant::now()
        };
        let since = edited(&ids(&["good", "worse", "worst"]));
        is_cut(&mut open[1], since, "policy_changed");
        assert!(open.iter_mut().enumerate().all(|(n, s)| n == 1 || answers(s)), "{wire}");

        pki.write(
            "bans",
            "spiffe://td.test/worse
",
        );
        let bans = format!("{}, bans: {}", ids(&["good", "worse", "worst"]), pki.at("bans"));
        let since = edited(&bans);
        is_cut(&mut open[2], since, "identity_banned");
        assert!(answers(&mut open[0]) && answers(&mut open[3]), "{wire}");

        let seen = server.lines();
        pki.write(
            "bans",
            "spiffe://td.test/worse
spiffe://td.test/worst
",
        );
        server.logs_since(seen, "bans reloaded");
        is_cut(&mut open[3], Instant::now(), "identity_banned");
        assert!(answers(&mut open[0]), "{wire}: what may stay drains");
        wait_until("two are banned", LIMIT, || server.count("identity_banned") == 2);
    }
}

/// The same where keys are pinned.
#[test]
fn an_edit_closes_whose_key_it_no_longer_pins() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let leaves = ["good", "bad"].map(|name| pki.ca.leaf(name, as_app));
    let pins = leaves.each_ref().map(|leaf| {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaf.spki);
        format!("'sha256:{}'", BASE64.encode(hash.as_ref()))
    });
    let (port, credential) = (free().port(), credential(&pki, "server"));
    let credential = credential.replace(&format!(", roots: {}", pki.at("ca.pem")), "");
    let edit = |pins: &[String]| {
        let text = format!(
            "services:\n- {{ name: s, mode: server, listen: '127.0.0.1:{port}', target: '{}', \
             {credential}, allow: {{ pins: [{}] }} }}\ndrain: {{ deadline: 60s }}\n",
            echo.addr,
            pins.join(", ")
        );
        pki.write("services.yaml", text);
    };
    edit(&pins);
    let server = Adit::start(format!("proxy -c {}", pki.at("services.yaml")));
    let [mut good, mut bad] = leaves.each_ref().map(|leaf| {
        let mut session = Caller::new(&pki.ca, Some(leaf)).dial(server.addr).unwrap();
        assert!(heard(&mut session.0));
        session
    });
    edit(&pins[..1]);
    server.logs("connection denied … policy_changed");
    assert!(!heard(&mut bad.0));
    assert!(heard(&mut good.0));
}

/// Tunnels are never pinned: an edit from tunnels to pinned keys is asked about theirs too.
#[test]
fn an_edit_from_tunnels_to_pins_closes_whose_key_is_not_pinned() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let leaves = ["good", "bad"].map(|name| {
        let leaf = pki.ca.leaf(name, as_app);
        pki.put(name, &leaf);
        leaf
    });
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaves[0].spki);
    let pin = format!("allow: {{ pins: ['sha256:{}'] }}", BASE64.encode(hash.as_ref()));
    let (port, credential) = (free().port(), credential(&pki, "server"));
    let edit = |rules: &str| {
        let text = format!(
            "services:\n- {{ name: s, mode: server, listen: '127.0.0.1:{port}', target: '{}', \
             {credential}, {rules} }}\ndrain: {{ deadline: 60s }}\n",
            echo.addr
        );
        pki.write("services.yaml", text);
    };
    edit(&format!("{HBONE}allow: {{ all: true }}"));
    let server = Adit::start(format!("proxy -c {}", pki.at("services.yaml")));
    let clients = clients(&pki, &echo, " --tunnel hbone ", "", &["good", "bad"], server.addr);
    let mut open: Vec<TcpStream> = clients.iter().map(|client| open(client.addr)).collect();
    edit(&pin);
    server.logs("connection denied … policy_changed");
    assert!(crate::wait::read_once(&mut open[1], &mut [0; 1]).is_err());
    assert!(answers(&mut open[0]));
}

/// An edit that names other roots or CRLs counts for who is open: they are closed at once, and
/// those whose certificates verify stay, also where the same is read from another file.
#[test]
fn an_edit_closes_whom_its_roots_and_crls_no_longer_prove() {
    let (pki, echo, other) = (Pki::new(), Backend::echo(), Pki::stranger());
    let names = ["good", "bad", "other"];
    for (serial, name) in [(70, "good"), (71, "bad")] {
        pki.put(name, &numbered(&pki, serial, &format!("spiffe://td.test/{name}")));
    }
    let leaf = other.leaf("other", |params| {
        as_app(params);
        params.subject_alt_names = vec![uri("spiffe://td.test/other")];
    });
    pki.put("other", &leaf);
    let both = pki.ca.pem().to_owned() + other.pem();
    pki.write("both.pem", &both);
    pki.write("copy.pem", &both);
    // Each CA has one: where CRLs are named, who has none cannot be asked about.
    pki.write("bad.crl", pki.ca.crl(&[71]));
    pki.write("none.crl", other.crl(&[]));
    for (wire, flag) in wires() {
        let (port, tunnel) = (free().port(), if flag.is_empty() { "" } else { HBONE });
        let at = |name: &str| pki.at(name);
        let edit = |trusted: &str| {
            let credential = credential(&pki, "server");
            let credential = credential.replace(&format!("roots: {}", at("ca.pem")), trusted);
            let text = format!(
                "services:\n- {{ name: s, mode: server, listen: '127.0.0.1:{port}', target: '{}', \
                 {tunnel}{credential}, allow: {{ all: true }} }}\ndrain: {{ deadline: 60s }}\n",
                echo.addr
            );
            pki.write("services.yaml", text);
        };
        edit(&format!("roots: {}", at("both.pem")));
        let server = Adit::start(format!("proxy -c {}", pki.at("services.yaml")));
        let clients = clients(&pki, &echo, &flag, "", &names, server.addr);
        let mut open: Vec<TcpStream> = clients.iter().map(|client| open(client.addr)).collect();
        let edited = |trusted: &str| {
            let seen = server.lines();
            edit(trusted);
            server.logs_since(seen, "configuration reloaded");
            Instant::now()
        };
        let is_cut = |socket: &mut TcpStream, since: Instant, reason: &str| {
            assert!(crate::wait::read_once(socket, &mut [0; 1]).is_err(), "{wire}: {reason}");
            let took = since.elapsed();
            assert!(took < Duration::from_secs(2), "{wire}: {reason} after {took:?}");
            server.logs(&format!("connection denied … {reason}"));
        };
        edited(&format!("roots: {}", at("copy.pem")));
        // Longer than until a service that drains looks at its successor again.
        std::thread::sleep(Duration::from_millis(600));
        assert!(open.iter_mut().all(answers), "{wire}: the same roots in another file");

        let crls = format!("crls: [{}, {}]", at("bad.crl"), at("none.crl"));
        let since = edited(&format!("roots: {}, {crls}", at("copy.pem")));
        is_cut(&mut open[1], since, "svid_revoked");
        assert!(answers(&mut open[0]) && answers(&mut open[2]), "{wire}: not revoked");

        let since = edited(&format!("roots: {}", at("ca.pem")));
        is_cut(&mut open[2], since, "untrusted_svid");
        assert!(answers(&mut open[0]), "{wire}: what may stay drains");
        assert_eq!(server.count("policy_changed"), 0, "{wire}");
    }
}

/// The same of a client, whose server is no longer proven by its roots.
#[test]
fn an_edit_leaves_a_server_whose_root_it_no_longer_names() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    pki.write("stranger.pem", Pki::stranger().pem());
    for (wire, flag) in wires() {
        let server = Adit::start(format!("{} {flag} --allow-all", pki.server(echo.addr)));
        let (port, credential) = (free().port(), credential(&pki, "app"));
        let (target, tunnel) = match flag.is_empty() {
            true => (server.addr, String::new()),
            false => {
                let at = server.addr;
                (echo.addr, format!("tunnel: {{ protocol: hbone, address: '{at}' }}, "))
            }
        };
        let edit = |roots: &str| {
            let credential = credential.replace("ca.pem", roots);
            let text = format!(
                "services:\n- {{ name: c, mode: client, listen: '127.0.0.1:{port}', target: \
                 '{target}', {tunnel}{credential}, verify: {{ ids: ['spiffe://td.test/db'] }} }}\n\
                 drain: {{ deadline: 60s }}\n"
            );
            pki.write("services.yaml", text);
        };
        pki.write("copy.pem", pki.ca.pem());
        edit("ca.pem");
        let client = Adit::start(format!("proxy -c {}", pki.at("services.yaml")));
        let mut socket = open(client.addr);
        let seen = client.lines();
        edit("copy.pem");
        client.logs_since(seen, "configuration reloaded");
        assert!(answers(&mut socket), "{wire}");
        edit("stranger.pem");
        assert!(crate::wait::read_once(&mut socket, &mut [0; 1]).is_err(), "{wire}");
        client.logs("connection denied … untrusted_svid");
    }
}

/// The same of a client, whose server is no longer one that is wanted.
#[test]
fn an_edit_leaves_a_server_that_is_no_longer_wanted() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for (wire, flag) in wires() {
        let server = Adit::start(format!("{} {flag} --allow-all", pki.server(echo.addr)));
        let (port, credential) = (free().port(), credential(&pki, "app"));
        let (target, tunnel) = match flag.is_empty() {
            true => (server.addr, String::new()),
            false => {
                let at = server.addr;
                (echo.addr, format!("tunnel: {{ protocol: hbone, address: '{at}' }}, "))
            }
        };
        let edit = |ids: &str| {
            let text = format!(
                "services:\n- {{ name: c, mode: client, listen: '127.0.0.1:{port}', target: \
                 '{target}', {tunnel}{credential}, verify: {{ ids: [{ids}] }} }}\n\
                 drain: {{ deadline: 60s }}\n"
            );
            pki.write("services.yaml", text);
        };
        edit("'spiffe://td.test/db'");
        let client = Adit::start(format!("proxy -c {}", pki.at("services.yaml")));
        let mut socket = open(client.addr);
        let seen = client.lines();
        edit("'spiffe://td.test/db', 'spiffe://td.test/other'");
        client.logs_since(seen, "configuration reloaded");
        assert!(answers(&mut socket), "{wire}");
        edit("'spiffe://td.test/other'");
        assert!(crate::wait::read_once(&mut socket, &mut [0; 1]).is_err(), "{wire}");
        client.logs("connection denied … policy_changed");
    }
}

/// `credential:` of a services file.
fn credential(pki: &Pki, name: &str) -> String {
    let at = |end: &str| pki.at(&format!("{name}.{end}"));
    let (certificate, key, roots) = (at("crt"), at("key"), pki.at("ca.pem"));
    format!("credential: {{ certificate: {certificate}, privateKey: {key}, roots: {roots} }}")
}

/// In TLS 1.3 a caller has sent its request by the time that its certificate is refused: what it
/// reads then is the alert, not a reset.
#[test]
fn a_caller_that_is_refused_reads_why() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let stranger = Pki::stranger().leaf("app", as_app);
    let server = Adit::start(pki.server(echo.addr) + "--allow-cn nobody");
    for (leaf, alert) in [(&stranger, "UnknownCA"), (&pki.app, "AccessDenied")] {
        for _ in 0..20 {
            let caller = Caller::new(&pki.ca, Some(leaf));
            let heard = caller.says(server.addr, &"hello".repeat(2000));
            let why = heard.unwrap_err().to_string();
            assert!(why.contains(alert), "{why}");
        }
    }
}
