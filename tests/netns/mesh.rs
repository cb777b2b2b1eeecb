//! The main job: captured, identified, authorised, carried.

use std::io::{Read, Write};

use crate::{
    forge::{forge, server_serial, uncaptured},
    lab::Lab,
    process::resident,
    wait::{LIMIT, wait_for},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("mesh::a_call_is_captured_and_carried_with_both_identities", carried),
    ("mesh::the_table_of_connections_and_the_log_count_the_same_bytes", bytes),
    ("mesh::a_policy_edit_closes_exactly_the_connection_it_forbids", policy_edit),
    ("mesh::a_bad_edit_changes_nothing_and_is_counted", bad_edit),
    ("mesh::a_rotated_svid_leaves_running_connections_alone", rotation),
    ("mesh::svids_are_renewed_at_half_life_by_themselves", half_life),
    ("mesh::stopping_drains_and_removes_the_rules_where_the_file_says_so", stopping),
    ("mesh::a_drain_lets_what_runs_go_on", drain),
    ("mesh::our_own_sockets_carry_the_mark", marks),
    ("mesh::connections_leave_nothing_behind", leaks),
    ("mesh::callers_of_admin_and_metrics_keep_nobody_out", operators),
];

pub(crate) const PODS: &[(&str, u8)] = &[("web", 1), ("db", 2), ("spy", 3)];

pub(crate) const MESH: &str = "
workloads:
- { name: web, namespace: shop, serviceAccount: web, addresses: [10.77.0.1, 'fd77::1'], netns: web }
- { name: db, namespace: shop, serviceAccount: db, addresses: [10.77.0.2, 'fd77::2'], netns: db, labels: { app: db } }
- { name: spy, namespace: shop, serviceAccount: spy, addresses: [10.77.0.3, 'fd77::3'], netns: spy }
services:
- { hostname: db.shop.svc.cluster.local, addresses: [10.96.0.10], ports: [{ port: 80, targetPort: 8080 }], workloads: [shop/db] }
- { hostname: none.shop.svc.cluster.local, addresses: [10.96.0.11], ports: [{ port: 80 }] }
";

pub(crate) fn allow(callers: &[&str]) -> String {
    let callers: Vec<_> = callers.iter().map(|c| format!("cluster.local/ns/shop/sa/{c}")).collect();
    format!(
        "{MESH}policies:
- metadata: {{ name: db-callers, namespace: shop }}
  spec:
    selector: {{ matchLabels: {{ app: db }} }}
    rules:
    - from: [{{ source: {{ principals: [{}] }} }}]
",
        callers.join(", ")
    )
}

pub(crate) fn lab(callers: &[&str]) -> Lab {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    lab.start(&allow(callers));
    lab
}

fn carried() {
    let lab = lab(&["web"]);
    for (to, caller) in [
        ("10.96.0.10:80", "10.77.0.1"),
        ("10.77.0.2:8080", "10.77.0.1"),
        ("[fd77::2]:8080", "fd77::1"),
    ] {
        assert_eq!(lab.ask("web", to).unwrap(), format!("caller {caller}\nhello\n"), "{to}");
    }
    let record = lab.record("inbound", "completed");
    assert_eq!(record["src.identity"], "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(record["dst.identity"], "spiffe://cluster.local/ns/shop/sa/db");
    assert_eq!(record["policy"], "shop/db-callers rule 0");
    assert_eq!(record["tls.group"], "X25519MLKEM768");
    assert_eq!(lab.record("outbound", "completed")["dst.service"], "db.shop.svc.cluster.local");
    lab.counts("istio_tcp_connections_opened_total{");
    lab.counts("connection_security_policy=\"mutual_tls\"");
}

fn bytes() {
    let lab = lab(&["web"]);
    let mut open = held(&lab, "web");
    // The greeting of 17 bytes is answered before.
    let said = b"six\n";
    open.write_all(said).unwrap();
    let mut echo = [0; 4];
    open.read_exact(&mut echo).unwrap();
    let shown = || {
        let answer = lab.admin("127.0.0.1:15000", "GET /connections");
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    let of = |direction: &str| {
        let all = shown();
        let one = all.as_array().unwrap().iter().find(|c| c["direction"] == direction)?;
        Some((one["bytesSent"].as_u64().unwrap(), one["bytesReceived"].as_u64().unwrap()))
    };
    let expected = [("outbound", 4, 21), ("inbound", 21, 4)];
    // The application has the last bytes a moment before they are counted.
    for (direction, sent, received) in expected {
        lab.wait(&format!("{direction} bytes in the table"), || {
            of(direction) == Some((sent, received))
        });
    }
    assert_eq!(shown().as_array().unwrap().len(), 2);
    drop(open);
    for (direction, sent, received) in expected {
        let record = lab.record(direction, "completed");
        assert_eq!(
            (&record["bytes_sent"], &record["bytes_recv"]),
            (&sent.into(), &received.into())
        );
    }
}

/// An open connection that has already answered once.
pub(crate) fn held(lab: &Lab, pod: &str) -> std::net::TcpStream {
    let mut socket = lab.connect(pod, "10.96.0.10:80").unwrap();
    let mut greeting = [0; 17];
    socket.read_exact(&mut greeting).unwrap();
    assert!(greeting.starts_with(b"caller 10.77.0."));
    socket
}

pub(crate) fn still_answers(socket: &mut std::net::TcpStream) -> bool {
    let mut answer = [0; 4];
    socket.write_all(b"ping").is_ok()
        && socket.read_exact(&mut answer).is_ok()
        && &answer == b"ping"
}

fn policy_edit() {
    let lab = lab(&["web", "spy"]);
    let (mut web, mut spy) = (held(&lab, "web"), held(&lab, "spy"));
    lab.write_mesh(&allow(&["web"]));
    let record = lab.record("inbound", "policy_changed");
    assert_eq!(record["src.identity"], "spiffe://cluster.local/ns/shop/sa/spy");
    assert!(!still_answers(&mut spy));
    let told = lab.record("outbound", "peer_denied");
    assert_eq!(told["src.identity"], "spiffe://cluster.local/ns/shop/sa/spy");
    let why = told["error"].as_str().unwrap();
    assert!(why.contains("no longer allows this connection"), "{why}");
    assert!(still_answers(&mut web));
    assert_eq!(lab.records("inbound", "policy_changed").len(), 1);
}

fn bad_edit() {
    let lab = lab(&["web"]);
    lab.write_mesh("workloads: [{ nam: web }]");
    lab.logs("configuration rejected");
    lab.logs("did you mean name?");
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    lab.counts("adit_config_loads_total{result=\"rejected\"} 1\n");
}

/// The serial number that `/certs` shows for a workload.
fn serial(lab: &Lab, workload: &str) -> String {
    let answer = lab.admin("127.0.0.1:15000", "GET /certs");
    let certs: serde_json::Value =
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let own = certs["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["workload"] == workload)
        .unwrap();
    own["serialNumber"].as_str().unwrap_or_default().to_owned()
}

/// The tunnels that calls came in on, by the caller's address and port.
fn tunnels(lab: &Lab) -> std::collections::BTreeSet<String> {
    let records = lab.records("inbound", "completed");
    records.iter().map(|r| r["src.addr"].as_str().unwrap().to_owned()).collect()
}

fn rotation() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    lab.start(&format!("workers: 1\n{}", allow(&["web"])));
    let call = |count: usize| {
        assert!(lab.ask("web", "10.96.0.10:80").is_ok());
        lab.wait("recorded", || lab.records("inbound", "completed").len() == count);
        tunnels(&lab)
    };
    let mut running = held(&lab, "web");
    let before = call(1);
    assert_eq!(call(2), before, "one worker: the tunnel is shared");
    let old = ["shop/web", "shop/db"].map(|w| serial(&lab, w));
    for account in ["web", "db"] {
        let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        let answer = lab.admin("127.0.0.1:15000", &format!("POST /certs/rotate?id={id}"));
        assert!(answer.contains("200 OK"), "{answer}");
    }
    lab.wait("rotated", || {
        let new = ["shop/web", "shop/db"].map(|w| serial(&lab, w));
        new.iter().zip(&old).all(|(new, old)| new != old)
    });
    assert!(still_answers(&mut running));
    assert_eq!(call(3).len(), before.len() + 1, "a tunnel with the new SVID");
    // What db shows to a new caller is what /certs says.
    let me = forge(&lab, &["spiffe://cluster.local/ns/shop/sa/web"], |_| ());
    assert_eq!(server_serial(uncaptured(&lab, "10.77.0.2:15008"), me), serial(&lab, "shop/db"));
    // A CA failure keeps the last good SVID.
    std::fs::rename(lab.file("ca/root-key.pem"), lab.file("ca/away")).unwrap();
    lab.admin("127.0.0.1:15000", "POST /certs/rotate?id=spiffe://cluster.local/ns/shop/sa/web");
    lab.wait("warned", || lab.log().contains("the previous SVID is valid for another"));
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
}

/// Nobody asks for it, and a connection outlives the SVID that it was opened with.
fn half_life() {
    let mut lab = Lab::new(PODS);
    lab.lifetime = "10s";
    lab.echo("db", 8080);
    lab.start(&format!("workers: 1\n{}", allow(&["web"])));
    let mut running = held(&lab, "web");
    let first = serial(&lab, "shop/db");
    lab.wait("renewed", || serial(&lab, "shop/db") != first);
    let second = serial(&lab, "shop/db");
    lab.wait("renewed again", || serial(&lab, "shop/db") != second);
    assert!(still_answers(&mut running));
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    // The tunnel of the first SVID goes with its last stream.
    let tunnels = || lab.tool("db", "ss -Htn state established sport = :15008").lines().count();
    lab.wait("the tunnel in use and the newest", || tunnels() == 2);
    drop(running);
    lab.wait("only the tunnel of the newest SVID", || tunnels() == 1);
}

fn stopping() {
    let mut lab = Lab::new(PODS);
    lab.capture = "rules: nft, onStop: remove";
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    let _held = held(&lab, "web");
    assert!(lab.tool("web", "nft list tables").contains("adit-nat"));
    assert!(lab.stop().success());
    assert_eq!(lab.tool("web", "nft list tables"), "");
    assert!(!lab.tool("web", "ip rule").contains("32764"));
    // Both ends are ours: whichever is cut first resets the other.
    let drained = ["inbound", "outbound"].map(|d| lab.records(d, "drained").len());
    assert!(drained.iter().sum::<usize>() >= 1, "{}", lab.log());
}

/// Until it ends by itself, or the deadline comes.
fn drain() {
    for (ends, deadline) in [(true, "10m"), (false, "2s")] {
        let mut lab = Lab::new(PODS);
        lab.drain = deadline;
        lab.echo("db", 8080);
        lab.start(&allow(&["web"]));
        let mut running = held(&lab, "web");
        lab.signal(nix::sys::signal::Signal::SIGTERM);
        let begun = std::time::Instant::now();
        while begun.elapsed().as_millis() < 1200 {
            assert!(still_answers(&mut running), "cut after {:?}", begun.elapsed());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        if ends {
            drop(running);
            lab.stop_dead();
        } else {
            lab.stop_dead();
            assert!(begun.elapsed().as_millis() >= 1900, "{:?}", begun.elapsed());
            assert!(!still_answers(&mut running));
        }
    }
}

/// Without it, what we say ourselves is captured and carried to us.
fn marks() {
    use adit::sys::{netns::Netns, sockets};
    let (here, to) = (Netns::current().unwrap(), "127.0.0.1:9".parse().unwrap());
    let mark = |socket: &dyn std::os::fd::AsFd| {
        let copy = socket.as_fd().try_clone_to_owned().unwrap();
        socket2::Socket::from(copy).mark().unwrap()
    };
    assert_eq!(mark(&sockets::local_socket(&here, to).unwrap()), 0x539);
    assert_eq!(mark(&sockets::outbound_socket(&here, to).unwrap()), 0x539);
    let listener = sockets::listen(&here, "127.0.0.1:0".parse().unwrap()).unwrap();
    assert_eq!(mark(&listener), 0x539);
    let caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = wait_for("the connection", LIMIT, || listener.accept().ok());
    assert_eq!(mark(&accepted), 0x539, "what it answers with");
    assert_eq!(mark(&caller), 0);
    assert_eq!(mark(&sockets::plain_socket(to).unwrap()), 0, "where nothing is captured");
}

/// Callers that hold every endpoint, methods that mean nothing, and a web page in a browser here.
fn operators() {
    use std::{io::Write as _, net::TcpStream, time::Instant};
    let lab = lab(&["web"]);
    let mut held = Vec::new();
    for port in [15000, 15020, 15021] {
        for n in 0..100 {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            if n % 2 == 0 {
                socket.set_write_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
                let ask = "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(200);
                let _ = socket.write_all(ask.as_bytes());
            }
            held.push(socket);
        }
    }
    for (at, page) in [
        ("127.0.0.1:15021", "/healthz/ready"),
        ("127.0.0.1:15020", "/metrics"),
        ("127.0.0.1:15000", "/certs"),
    ] {
        let begun = Instant::now();
        let answer = lab.admin(at, &format!("GET {page}"));
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{page}: {answer}");
        assert!(begun.elapsed().as_secs() < 2, "{page}: {:?}", begun.elapsed());
        for method in ["PUT", "TRACE", "DELETE", "POST"] {
            let answer = lab.admin(at, &format!("{method} {page}"));
            assert!(answer.starts_with("HTTP/1.1 405"), "{method} {page}: {answer}");
        }
    }
    let before = lab.admin("127.0.0.1:15000", "GET /logging");
    for line in [
        "POST /logging?level=off HTTP/1.1\r\nhost: evil.example\r\nx: y",
        "POST /logging?level=off HTTP/1.1\r\norigin: http://evil.example\r\nx: y",
        "POST /logging?level=off HTTP/1.1\r\nsec-fetch-site: cross-site\r\nx: y",
        "POST /certs/rotate?id=x HTTP/1.1\r\nhost: evil.example\r\nx: y",
        "POST http://evil.example/logging?level=off",
        "GET /config_dump HTTP/1.1\r\nhost: evil.example\r\nx: y",
    ] {
        let answer = lab.admin("127.0.0.1:15000", line);
        assert!(answer.starts_with("HTTP/1.1 403"), "{line}: {answer}");
    }
    let tail = |answer: &str| answer.split("\r\n\r\n").nth(1).map(ToOwned::to_owned);
    assert_eq!(tail(&lab.admin("127.0.0.1:15000", "GET /logging")), tail(&before));
    assert!(lab.admin("127.0.0.1:15000", "POST /logging?level=info").contains("200 OK"));
}

fn leaks() {
    let lab = lab(&["web"]);
    let settle = || {
        lab.wait("empty", || lab.admin("127.0.0.1:15000", "GET /connections").ends_with("[]\n"));
    };
    // Half of them half-close and read to the end, the others reset at once.
    let abrupt = |count: usize| {
        for n in 0..count {
            let mut socket = lab.connect("web", "10.96.0.10:80").unwrap();
            socket.write_all(b"x").unwrap();
            if n % 2 == 0 {
                socket.shutdown(std::net::Shutdown::Write).unwrap();
                socket.read_to_end(&mut Vec::new()).unwrap();
            } else {
                let linger = socket2::SockRef::from(&socket);
                linger.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
        }
        settle();
    };
    let orderly = |count: usize| {
        (0..count).for_each(|_| drop(held(&lab, "web")));
        settle();
    };
    let open = || std::fs::read_dir(format!("/proc/{}/fd", lab.pid())).unwrap().count();
    abrupt(300);
    orderly(1000);
    let tasks = || -> usize {
        let text = lab.admin("127.0.0.1:15020", "GET /metrics");
        let line = text.lines().find_map(|l| l.strip_prefix("tokio_num_alive_tasks ")).unwrap();
        line.parse().unwrap()
    };
    let (descriptors, alive, memory) = (open(), tasks(), resident(lab.pid()));
    abrupt(1000);
    orderly(10_000);
    lab.wait("back at the baseline of descriptors", || open() <= descriptors + 4);
    lab.wait("back at the baseline of tasks", || tasks() <= alive + 4);
    let now = resident(lab.pid());
    assert!(now < memory + memory / 5 + 2048, "memory grew from {memory} to {now} KiB");
}
