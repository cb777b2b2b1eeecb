//! `appHop: sockmap`: applications' bytes from queue to queue, past TCP.
//!
//! Where the kernel does not have it (the log then says why) adit carries on by TCP: the same
//! scenarios must hold, but for the one that counts packets.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    lab::Lab,
    mesh::{PODS, allow},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("short_way::small_messages_leave_the_loopback_device_alone", no_packets),
    ("short_way::bytes_keep_their_order_whichever_way_they_go", order),
    ("short_way::a_half_close_and_a_reset_arrive_as_such", endings),
    ("short_way::a_reader_that_stalls_makes_the_writer_wait", stall),
    ("short_way::an_application_that_takes_a_short_read_for_the_last_gets_all", short_reads),
    ("short_way::ports_used_again_lead_to_their_own_connection", churn),
    ("short_way::who_is_cut_is_told_and_who_comes_after_is_served", cuts),
    ("short_way::every_kind_of_connection_carries_its_bytes", kinds),
    ("short_way::a_change_of_the_way_is_said_to_wait_for_a_restart", change),
];

fn lab() -> Lab {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    let body = allow(&["web"]).replace(", netns:", ", appHop: sockmap, netns:");
    lab.start(&body);
    lab
}

fn is_on(lab: &Lab) -> bool {
    lab.log().contains("appHop: sockmap is on")
}

/// A connection that has said enough to take the sockmap redirect.
fn warm(lab: &Lab) -> TcpStream {
    let mut socket = lab.connect("web", "10.96.0.10:80").unwrap();
    socket.set_nodelay(true).unwrap();
    exactly(&mut socket, &mut [0; 17]);
    (0..20).for_each(|_| ping(&mut socket));
    socket
}

fn ping(socket: &mut TcpStream) {
    socket.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    exactly(socket, &mut answer);
    assert_eq!(&answer, b"ping");
}

/// Reads as an application with an event loop does: a blocking read of a socket in a sockmap may
/// say that there is nothing after all (`tcp_bpf_recvmsg` waits once, whoever wakes it).
fn read(socket: &mut TcpStream, buffer: &mut [u8]) -> usize {
    let start = Instant::now();
    loop {
        match socket.read(buffer) {
            Err(e) if e.kind() == ErrorKind::WouldBlock && start.elapsed() < LIMIT => {}
            read => return read.unwrap(),
        }
    }
}

/// Fills the buffer so.
fn exactly(socket: &mut TcpStream, mut buffer: &mut [u8]) {
    while !buffer.is_empty() {
        let n = read(socket, buffer);
        assert!(n > 0, "it ended {} bytes too early", buffer.len());
        buffer = &mut buffer[n..];
    }
}

const LIMIT: Duration = Duration::from_secs(10);

fn loopback_packets(lab: &Lab, pod: &str) -> u64 {
    let text = lab.tool(pod, "cat /proc/self/net/dev");
    let line = text.lines().find(|l| l.trim_start().starts_with("lo:")).expect("lo");
    line.split_whitespace().nth(2).expect("packets").parse().expect("a number")
}

fn no_packets() {
    let lab = lab();
    let mut socket = warm(&lab);
    let before = ["web", "db"].map(|pod| loopback_packets(&lab, pod));
    (0..500).for_each(|_| ping(&mut socket));
    let after = ["web", "db"].map(|pod| loopback_packets(&lab, pod));
    for (pod, (before, after)) in ["web", "db"].iter().zip(before.into_iter().zip(after)) {
        match is_on(&lab) {
            true => assert!(after - before < 20, "{pod}: {} packets", after - before),
            false => println!("no sockmap on this kernel, by TCP instead:\n{}", lab.log()),
        }
    }
}

/// What `seed` stands for, `length` bytes.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

/// Messages of all sizes, with pauses, to a reader who pauses too: queues run full and empty,
/// and bytes change their way many times.
fn order() {
    let lab = lab();
    let flows: Vec<_> = (0..4).map(|seed| (seed, warm(&lab))).collect();
    std::thread::scope(|scope| {
        for (seed, socket) in flows {
            let said = text(seed, 12_000_000);
            scope.spawn(move || {
                let mut writer = socket.try_clone().unwrap();
                let expected = said.clone();
                let reads = std::thread::spawn(move || {
                    read_all(socket, &expected, seed);
                });
                let mut random = StdRng::seed_from_u64(seed + 100);
                let mut rest = &said[..];
                while !rest.is_empty() {
                    let most = *[10, 300, 5_000, 200_000].get(random.random_range(0..4)).unwrap();
                    let (part, left) = rest.split_at(random.random_range(1..=most).min(rest.len()));
                    writer.write_all(part).unwrap();
                    if random.random_ratio(1, 40) {
                        std::thread::sleep(Duration::from_micros(random.random_range(1..3_000)));
                    }
                    rest = left;
                }
                writer.shutdown(Shutdown::Write).unwrap();
                reads.join().unwrap();
            });
        }
    });
}

fn read_all(mut socket: TcpStream, expected: &[u8], seed: u64) {
    let mut random = StdRng::seed_from_u64(seed + 200);
    let (mut at, mut buffer) = (0, vec![0; 150_000]);
    loop {
        let most = random.random_range(1..buffer.len());
        let n = read(&mut socket, &mut buffer[..most]);
        if n == 0 {
            break;
        }
        assert!(buffer[..n] == expected[at..at + n], "flow {seed} differs at {at}..{}", at + n);
        at += n;
        if random.random_ratio(1, 60) {
            std::thread::sleep(Duration::from_micros(random.random_range(1..5_000)));
        }
    }
    assert_eq!(at, expected.len(), "flow {seed}");
}

fn endings() {
    let lab = lab();
    let mut socket = warm(&lab);
    socket.write_all(b"last words").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    read_all(socket, b"last words", 0);
    lab.record("outbound", "completed");
    let socket = warm(&lab);
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
    lab.record("outbound", "app_reset");
    lab.record("inbound", "peer_reset");
}

/// Nobody reads what comes back: the echo stops reading too, and then this writer must wait
/// long before it has said a gigabyte.
fn stall() {
    let lab = lab();
    let mut socket = warm(&lab);
    socket.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let (mut said, part) = (0_usize, [7; 4096]);
    while said < 1 << 30 {
        match socket.write(&part) {
            Ok(n) => said += n,
            Err(_) => break,
        }
    }
    assert!(said < 256 << 20, "{said} bytes are on their way to nobody");
    // And all of it comes when somebody does read.
    socket.shutdown(Shutdown::Write).unwrap();
    let (mut buffer, mut got) = (vec![0; 1 << 20], 0);
    while let n @ 1.. = read(&mut socket, &mut buffer) {
        assert!(buffer[..n].iter().all(|b| *b == 7));
        got += n;
    }
    assert_eq!(got, said);
}

/// A caller and a tokio application on db's port 8081, who take the sockmap redirect.
fn async_app(lab: &Lab) -> (TcpStream, TcpStream) {
    let listener = lab.listen("db", 8081);
    let mut caller = lab.connect("web", "10.77.0.2:8081").unwrap();
    let mut app = listener.accept().unwrap().0;
    for socket in [&caller, &app] {
        socket.set_nodelay(true).unwrap();
    }
    for _ in 0..20 {
        caller.write_all(b"ping").unwrap();
        exactly(&mut app, &mut [0; 4]);
        app.write_all(b"pong").unwrap();
        exactly(&mut caller, &mut [0; 4]);
    }
    app.set_nonblocking(true).unwrap();
    (caller, app)
}

/// Tokio and nginx, woken by edges, take a read that does not fill the buffer for the last: what
/// lies in a second queue they would never look for.
fn short_reads() {
    let lab = lab();
    let (mut caller, app) = async_app(&lab);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut app = tokio::net::TcpStream::from_std(app).unwrap();
        for (round, size) in [40_000, 2_000, 400_000, 40_000].into_iter().enumerate() {
            let said = text(9, 100 + size);
            caller.write_all(&said[..100]).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            if round == 3 {
                // What comes after the application's own last word, too.
                app.shutdown().await.unwrap();
                assert_eq!(read(&mut caller, &mut [0; 1]), 0);
            }
            for part in said[100..].chunks(9_000) {
                caller.write_all(part).unwrap();
                std::thread::sleep(Duration::from_micros(300));
            }
            std::thread::sleep(Duration::from_millis(20));
            let (mut got, mut buffer) = (vec![], [0; 8192]);
            while got.len() < said.len() {
                let read = tokio::time::timeout(Duration::from_secs(1), app.read(&mut buffer));
                let read =
                    read.await.unwrap_or_else(|_| panic!("{round}: asleep at {}", got.len()));
                got.extend_from_slice(&buffer[..read.unwrap()]);
            }
            assert!(got == said, "round {round}");
        }
    });
}

/// Connections by a handful of ports, each reset or closed and followed by the next from the
/// same port at once, beside others that last.
fn churn() {
    let lab = lab();
    lab.tool("web", "sysctl -qw net.ipv4.ip_local_port_range=50000:50015 net.ipv4.tcp_tw_reuse=1");
    let count = 40;
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let lab = &lab;
            scope.spawn(move || {
                let mut lasting = warm(lab);
                for n in 0..count {
                    ping(&mut lasting);
                    let mut socket = lab.connect("web", "10.96.0.10:80").unwrap();
                    socket.set_nodelay(true).unwrap();
                    exactly(&mut socket, &mut [0; 17]);
                    for turn in 0..12_u32 {
                        let said = [thread, n, turn].map(u32::to_le_bytes).concat();
                        socket.write_all(&said).unwrap();
                        let mut heard = [0; 12];
                        exactly(&mut socket, &mut heard);
                        assert!(heard[..] == said, "{heard:?} for {said:?}");
                    }
                    if n % 2 == 0 {
                        let linger = socket2::SockRef::from(&socket);
                        linger.set_linger(Some(Duration::ZERO)).unwrap();
                    }
                }
            });
        }
    });
}

/// What a connection that is cut says to its application.
fn told(mut socket: TcpStream) {
    let start = Instant::now();
    loop {
        match crate::wait::read_once(&mut socket, &mut [0; 64]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => break,
            Err(e) if e.kind() == ErrorKind::WouldBlock && start.elapsed() < LIMIT / 5 => {}
            Err(e) => panic!("{e}"),
        }
    }
    assert!(start.elapsed() < LIMIT / 2);
}

/// By a policy edit, by the end of adit, by silence.
fn cuts() {
    let mut lab = lab();
    let sockmap =
        |callers: &[&str]| allow(callers).replace(", netns:", ", appHop: sockmap, netns:");
    let socket = warm(&lab);
    lab.write_mesh(&sockmap(&["spy"]));
    lab.record("inbound", "policy_changed");
    told(socket);
    lab.write_mesh(&sockmap(&["web"]));
    lab.wait("allowed", || lab.ask("web", "10.96.0.10:80").is_ok());
    let mut socket = warm(&lab);
    let adit = nix::unistd::Pid::from_raw(i32::try_from(lab.pid()).unwrap());
    nix::sys::signal::kill(adit, nix::sys::signal::Signal::SIGKILL).unwrap();
    let _ = socket.write_all(b"more");
    told(socket);
    lab.stop_dead();
    lab.start(&format!("timeouts: {{ idle: 1s }}\n{}", sockmap(&["web"])));
    let mut socket = warm(&lab);
    for _ in 0..10 {
        ping(&mut socket);
        std::thread::sleep(Duration::from_millis(100));
    }
    told(socket);
    // Both ends are ours: whichever looks first.
    lab.wait("idle", || lab.log().contains("\"idle_timeout\""));
}

/// Services, IPv6, plaintext out and in; and what was never ours: a pod that talks to itself.
fn kinds() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    lab.echo("spy", 8080);
    lab.echo("web", 8080);
    let body = allow(&["web"]).replace(", netns:", ", appHop: sockmap, netns:");
    let body = body
        .replace("serviceAccount: spy, addresses", "protocol: tcp, serviceAccount: spy, addresses")
        .replace("appHop: sockmap, netns: spy", "node: elsewhere");
    lab.start(&format!("mtls: permissive\n{body}"));
    for (from, to, direct) in [
        ("web", "10.96.0.10:80", false),
        ("web", "[fd77::2]:8080", false),
        ("web", "10.77.0.3:8080", false),
        ("spy", "10.77.0.1:8080", false),
        ("web", "10.77.0.1:8080", true),
        ("web", "127.0.0.1:8080", true),
    ] {
        let mut socket = lab.connect(from, to).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut line = vec![];
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            exactly(&mut socket, &mut byte);
            line.push(byte[0]);
        }
        (0..20).for_each(|_| ping(&mut socket));
        let before = loopback_packets(&lab, "web");
        (0..100).for_each(|_| ping(&mut socket));
        let packets = loopback_packets(&lab, "web") - before;
        match direct {
            true => assert!(packets >= 200, "{from} {to}: {packets} packets"),
            false if is_on(&lab) => assert!(packets < 20, "{from} {to}: {packets} packets"),
            false => {}
        }
    }
}

/// A running pod keeps its way, and the log says so.
fn change() {
    let mut lab = Lab::new(PODS);
    lab.start(&allow(&["web"]));
    lab.write_mesh(&allow(&["web"]).replace(", netns:", ", appHop: sockmap, netns:"));
    lab.wait("said", || lab.log().contains(".appHop ("));
}
