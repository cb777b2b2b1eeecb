//! `adit bench` end to end, on loopback: every load, and loads that must notice a bad middle.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::Value;

#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/wait.rs"]
mod wait;

use process::{Adit, command};

/// A far end of its own.
struct Far {
    _adit: Adit,
    addr: SocketAddr,
}

impl Far {
    fn start() -> Self {
        let adit = Adit::launch(command("bench serve --listen 127.0.0.1:0"));
        let line = adit.logs("listening on ");
        let addr = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { _adit: adit, addr }
    }
}

/// Runs a load; its exit code, and what it said.
fn load(to: SocketAddr, args: &str) -> (i32, Value) {
    let output = command(&format!("bench run {to} --json --warmup 0.1 {args}")).output().unwrap();
    let json = serde_json::from_slice(&output.stdout);
    let json = json.unwrap_or_else(|e| panic!("{args}: {e}: {output:?}"));
    (output.status.code().unwrap(), json)
}

/// A middle that passes bytes on, each way through `each` with the bytes that went before.
fn middle(to: SocketAddr, each: impl Fn(&mut [u8], u64) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let each = Arc::new(each);
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(to).unwrap());
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            for (mut from, mut to) in
                [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)]
            {
                let each = Arc::clone(&each);
                std::thread::spawn(move || {
                    let (mut buffer, mut passed) = (vec![0; 64 * 1024], 0);
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        each(&mut buffer[..n], passed);
                        passed += n as u64;
                        if to.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    addr
}

#[test]
fn every_load_counts_what_it_did() {
    let far = Far::start();
    // Unoptimised, one of the two ways has often moved nothing yet after half a second.
    let loads = [("bulk-up", 1, 0.4), ("bulk-down", 1, 0.4), ("duplex", 2, 3.0), ("slow", 1, 0.4)];
    for (mode, bytes, seconds) in loads {
        let args = format!("--mode {mode} --connections 3 --seconds {seconds} --verify");
        let (code, json) = load(far.addr, &args);
        assert_eq!((code, &json["failures"]), (0, &serde_json::json!({})), "{json}");
        let ways = ["bytes_sent", "bytes_received"].map(|way| json[way].as_u64().unwrap() > 0);
        assert_eq!(ways.iter().filter(|moved| **moved).count(), bytes, "{json}");
    }
    for mode in ["ping", "churn", "idle"] {
        let (code, json) =
            load(far.addr, &format!("--mode {mode} --connections 3 --seconds 0.4 --verify"));
        let done = json["operations"].as_u64().unwrap();
        assert!(code == 0 && done >= 6, "{json}");
        assert!(json["latency_us"]["p50"].as_u64().unwrap() > 5, "{json}");
        assert_eq!(json["loop"], "closed");
    }
    let args = "--mode mixed --connections 4 --rate 200 --stalled 2 --bulk 4 --seconds 0.4";
    let (code, json) = load(far.addr, &format!("{args} --baseline"));
    assert_eq!(code, 0, "{json}");
    for part in ["baseline", "small", "bulk-up", "bulk-down", "stalled"] {
        assert!(json["parts"][part].is_object(), "{part}: {json}");
    }
    assert!(json["p99_ratio"].as_f64().unwrap() > 0.0);
}

#[test]
fn one_wrong_byte_is_noticed_wherever_it_is() {
    let far = Far::start();
    for mode in ["bulk-up", "bulk-down", "ping"] {
        let hit = AtomicU64::new(0);
        let flips = middle(far.addr, move |bytes, passed| {
            // Not in the hello, and once only.
            if passed > 0 && hit.fetch_add(1, Relaxed) == 3 {
                bytes[0] ^= 1;
            }
        });
        let (code, json) = load(flips, &format!("--mode {mode} --seconds 0.3 --verify"));
        assert_eq!(code, 1, "{mode}");
        let first = json["failures"]["corrupt"]["first"].as_str();
        assert!(first.is_some_and(|f| f.contains("connection 0: ")), "{mode}: {json}");
    }
}

/// A middle that stops for 300 ms: with a rate, all who would have come meanwhile are late;
/// in a closed loop only who was on the way.
#[test]
fn an_open_loop_charges_a_stall_to_all_who_waited() {
    let far = Far::start();
    for (rate, all) in [("--rate 1000", true), ("", false)] {
        let (began, stopped) = (std::time::Instant::now(), AtomicBool::new(false));
        let pauses = middle(far.addr, move |_, _| {
            if began.elapsed() > Duration::from_millis(500) && !stopped.swap(true, Relaxed) {
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        // One connection, so that the pause stops everything.
        let (code, json) = load(pauses, &format!("--mode ping --seconds 1.5 {rate}"));
        assert_eq!(code, 0, "{json}");
        let latency = &json["latency_us"];
        assert!(latency["max"].as_u64().unwrap() > 250_000, "{json}");
        let late = latency["p90"].as_u64().unwrap() > 50_000;
        assert_eq!(late, all, "a fifth of the time was lost: {json}");
        assert_eq!(json["loop"], if rate.is_empty() { "closed" } else { "open" });
    }
}

#[test]
fn a_target_that_refuses_is_a_clear_failure() {
    let nobody = ports::free();
    let (code, json) = load(nobody, "--mode churn --seconds 0.2");
    let first = json["failures"]["connect"]["first"].as_str().unwrap();
    assert!(code == 1 && first.contains(&format!("{nobody}: Connection refused")), "{json}");
}

#[test]
fn a_target_may_have_a_name_and_must_have_a_port() {
    let far = Far::start();
    let run = |to: &str| bench(&format!("run {to} --mode ping --seconds 0.2 --quiet"));
    let (code, out, error) = run(&format!("localhost:{}", far.addr.port()));
    assert!(code == 0 && out.contains("operations"), "{out}{error}");
    for (to, says) in [
        ("localhost", "not a valid address: the port is missing"),
        ("nowhere.invalid:9000", "cannot resolve \"nowhere.invalid\""),
        ("unix:/run/a.sock", "unix:/run/a.sock: expected HOST:PORT"),
    ] {
        let (code, _, error) = run(to);
        assert!(code > 0 && error.contains(says), "{to}: {error}");
    }
}

#[test]
fn no_time_at_all_is_not_measured() {
    let (code, _, error) = bench("run 127.0.0.1:1 --mode ping --seconds 0");
    assert!(code == 2 && error.contains("must be 0.01 to 86400"), "{code}: {error}");
}

/// The warm-up is not measured, so what was due in it is not missing.
#[test]
fn what_is_not_sent_is_counted_from_the_end_of_the_warm_up() {
    let far = Far::start();
    // More than one connection can do, by far.
    let args = "--mode ping --rate 1000000 --seconds 0.3 --warmup 1";
    let output = command(&format!("bench run {} --json {args}", far.addr)).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let unsent = json["unsent"].as_u64().unwrap();
    assert!((200_000..=300_001).contains(&unsent), "{json}");
}

#[test]
fn a_stranger_at_the_far_end_is_closed() {
    let far = Far::start();
    let mut stranger = TcpStream::connect(far.addr).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let _ = stranger.set_read_timeout(Some(Duration::from_secs(5)));
    assert!(matches!(stranger.read(&mut [0; 10]), Ok(0) | Err(_)));
    assert_eq!(load(far.addr, "--mode ping --seconds 0.2").0, 0, "and others are served");
}

/// Runs `adit bench` with these arguments; its exit code, and what it said.
fn bench(args: &str) -> (i32, String, String) {
    let output = command(&format!("bench {args}")).output().unwrap();
    let [out, error] =
        [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned());
    (output.status.code().unwrap(), out, error)
}

#[test]
fn a_second_far_end_does_not_share_an_address_unnoticed() {
    let far = Far::start();
    for workers in [1, 2] {
        let (code, _, error) = bench(&format!("serve --listen {} --workers {workers}", far.addr));
        assert!(
            code == 1 && error.contains("another process is listening there"),
            "{code}: {error}"
        );
    }
}

#[test]
fn a_flag_that_does_nothing_in_a_mode_is_refused() {
    for (args, flag) in [
        ("--mode bulk-up --rate 100", "--rate"),
        ("--mode idle --rate 100", "--rate"),
        ("--mode ping --read-rate 100", "--read-rate"),
        ("--mode ping --stalled 2", "--stalled"),
        ("--mode duplex --bulk 2", "--bulk"),
        ("--mode churn --baseline", "--baseline"),
    ] {
        let (code, out, error) = bench(&format!("run 127.0.0.1:1 {args} --seconds 0.1"));
        assert_eq!((code, out.as_str()), (2, ""), "{args}: {error}");
        assert!(error.contains(&format!("{flag} is for --mode ")), "{error}");
    }
}

#[test]
fn the_table_says_what_was_verified() {
    let far = Far::start();
    for (mode, flag, said) in
        [("ping", "--verify", true), ("churn", "--verify", true), ("ping", "", false)]
    {
        let args =
            format!("run {} --mode {mode} --seconds 0.2 --warmup 0.1 --quiet {flag}", far.addr);
        let (code, out, error) = bench(&args);
        assert_eq!(code, 0, "{out}{error}");
        let line = out.lines().any(|l| l == "  verified        every byte, at both ends");
        assert_eq!(line, said, "{out}");
    }
}
