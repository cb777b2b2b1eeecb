//! Too much of something, and what is left afterwards.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use nix::sys::resource::{Resource, setrlimit};

use crate::{
    backends::{Backend, ask, dial, echo, nobody, reset},
    peers::{BOTH, Caller, Demand, ONLY12, ONLY13, tls_backend, tls_echo},
    pki::Pki,
    process::{Adit, command},
    wait::{LIMIT, wait_until},
};

#[test]
fn a_flood_of_handshakes_is_served() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app");
    let open = adit.descriptors();
    let callers: Vec<_> = (0..8)
        .map(|n| {
            let versions = if n % 2 == 0 { ONLY12 } else { ONLY13 };
            let caller = Caller::speaking(versions, &pki.ca, Some(&pki.app));
            let addr = adit.addr;
            thread::spawn(move || {
                for _ in 0..25 {
                    assert_eq!(caller.says(addr, "hello").unwrap(), "hello");
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    wait_until("all are recorded", LIMIT, || adit.count("direction") == 200);
    wait_until("nothing is open", LIMIT, || adit.descriptors() <= open);
}

/// Somebody in earnest is served; not at once where a busy machine takes longer for a handshake
/// than it may last.
fn is_served(caller: &Caller, at: std::net::SocketAddr) {
    wait_until("a caller in earnest is served", LIMIT, || {
        caller.says(at, "hello").is_ok_and(|heard| heard == "hello")
    });
}

/// Hellos by the hundred from somebody who never goes on: whoever is in earnest is served.
#[test]
fn a_flood_of_hellos_delays_nobody_for_ever() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app --connect-timeout 2s");
    let hello = client_hello(&pki);
    let attackers: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut socket = dial(adit.addr);
            socket.write_all(&hello).unwrap();
            socket
        })
        .collect();
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    for _ in 0..5 {
        is_served(&caller, adit.addr);
    }
    wait_until("they have lost patience", LIMIT, || adit.count("timeout") >= 300);
    drop(attackers);
    assert_eq!(echo.taken(), 5, "none of them cost the application anything");
}

/// What a client says first.
fn client_hello(pki: &Pki) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    thread::spawn(move || caller.dial(addr).map(drop));
    let (mut socket, _) = listener.accept().unwrap();
    let mut header = [0; 5];
    socket.read_exact(&mut header).unwrap();
    let mut hello = header.to_vec();
    hello.resize(5 + usize::from(u16::from_be_bytes([header[3], header[4]])), 0);
    socket.read_exact(&mut hello[5..]).unwrap();
    hello
}

#[test]
fn a_slow_loris_is_shaken_off_and_others_are_served() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app --connect-timeout 700ms");
    let hello = client_hello(&pki);
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let (mut socket, hello) = (dial(adit.addr), hello.clone());
            thread::spawn(move || {
                // A byte now and then never counts as progress.
                for byte in hello {
                    if socket.write_all(&[byte]).is_err() {
                        return true;
                    }
                    thread::sleep(Duration::from_millis(50));
                }
                false
            })
        })
        .collect();
    is_served(&Caller::new(&pki.ca, Some(&pki.app)), adit.addr);
    assert!(slow.into_iter().all(|slow| slow.join().unwrap()), "all are cut off");
    wait_until("all are recorded", LIMIT, || {
        adit.count("tls_timeout") + adit.count("connect_timeout") >= 20
    });
    assert_eq!(echo.taken(), 1);
}

/// The same towards an application: a TLS server that dawdles in its handshake.
#[test]
fn a_server_that_dawdles_is_given_up() {
    let pki = Pki::new();
    let far = Backend::start(|mut socket| {
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    });
    let adit = Adit::start(pki.client(far.addr) + "--connect-timeout 300ms");
    assert!(ask(adit.addr, b"hello").is_err());
    adit.logs("_timeout … 300ms");
}

#[test]
fn churn_leaves_nothing_behind() {
    let pki = Pki::new();
    let far = tls_backend(BOTH, &pki.server, Demand::Of(&pki.ca), tls_echo);
    let adit = Adit::start(pki.client(far.addr));
    assert_eq!(ask(adit.addr, b"hello").unwrap(), b"hello");
    wait_until("recorded", LIMIT, || adit.count("direction") == 1);
    let open = adit.descriptors();
    let addr = adit.addr;
    let all: Vec<_> = (0..6)
        .map(|n| {
            thread::spawn(move || {
                for turn in 0..20 {
                    match (n + turn) % 4 {
                        0 => drop(TcpStream::connect(addr).unwrap()),
                        1 => reset(dial(addr)),
                        2 => {
                            let mut socket = dial(addr);
                            let _ = socket.write_all(b"hello");
                            reset(socket);
                        }
                        _ => assert_eq!(ask(addr, b"hello").unwrap(), b"hello"),
                    }
                }
            })
        })
        .collect();
    all.into_iter().for_each(|one| one.join().unwrap());
    wait_until("all are recorded", LIMIT, || adit.count("direction") == 121);
    wait_until("nothing is open", LIMIT, || adit.descriptors() <= open);
    assert_eq!(ask(adit.addr, b"hello").unwrap(), b"hello");
}

/// adit with this many descriptors and no more.
fn with_descriptors(args: &str, most: u64) -> Adit {
    let mut command = command(args);
    let limit = move || Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?);
    // SAFETY: setrlimit(2) is async-signal-safe, and nothing else happens there.
    #[allow(unsafe_code, reason = "the limit must be the child's alone")]
    unsafe {
        command.pre_exec(limit);
    }
    Adit::spawn(command)
}

#[test]
fn without_descriptors_it_waits_and_then_goes_on() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = with_descriptors(&(pki.server(echo.addr) + "--allow-cn app"), 60);
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    let mut first = caller.dial(adit.addr).unwrap();
    first.write_all(b"a").unwrap();
    first.hear(1).unwrap();
    // Silent ones, until there is no descriptor left.
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(adit.addr).unwrap()).collect();
    adit.logs("accept failed; trying again after a pause");
    first.write_all(b"b").unwrap();
    assert_eq!(first.hear(1).unwrap(), b"b", "who is here stays");
    drop(silent);
    assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
    first.end().unwrap();
    assert_eq!(first.rest().unwrap(), b"");
    assert_eq!(adit.stop(), 0);
}

#[test]
fn a_reload_without_descriptors_keeps_what_was_read() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = with_descriptors(&(pki.server(echo.addr) + "--allow-cn app"), 50);
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(adit.addr).unwrap()).collect();
    adit.logs("accept failed; trying again after a pause");
    adit.signal(nix::sys::signal::Signal::SIGHUP);
    adit.logs("reload");
    drop(silent);
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
}

#[test]
fn a_backend_that_comes_and_goes_is_found_again() {
    let pki = Pki::new();
    let addr = nobody();
    let adit = Adit::start(pki.server(addr) + "--allow-cn app");
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    for _ in 0..4 {
        assert!(caller.says(adit.addr, "hello").is_err(), "it is down");
        let backend = Backend::at(bound(addr), echo);
        let mut session = caller.dial(adit.addr).unwrap();
        session.write_all(b"hello").unwrap();
        assert_eq!(session.hear(5).unwrap(), b"hello", "it is up");
        session.end().unwrap();
        assert_eq!(session.rest().unwrap(), b"");
        drop(backend);
    }
    wait_until("all are recorded", LIMIT, || adit.count("connect_failure") == 4);
    wait_until("and so are these", LIMIT, || adit.count("reason=\"completed\"") == 4);
}

fn bound(addr: std::net::SocketAddr) -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    socket.listen(16).unwrap();
    socket.into()
}

#[test]
fn who_is_too_many_waits_for_a_place() {
    let pki = Pki::new();
    let most = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let count = Arc::clone(&most);
    let backend = Backend::start(move |socket| {
        let now = count.0.fetch_add(1, SeqCst) + 1;
        count.1.fetch_max(now, SeqCst);
        // Counted down before the other end can know that it has ended.
        let mut socket = socket;
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        count.0.fetch_sub(1, SeqCst);
        let _ = socket.write_all(&all);
        let _ = socket.shutdown(Shutdown::Write);
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-cn app --max-concurrent-conns 3");
    let callers: Vec<_> = (0..12)
        .map(|_| {
            let (caller, addr) = (Caller::new(&pki.ca, Some(&pki.app)), adit.addr);
            thread::spawn(move || {
                let mut session = caller.dial(addr).unwrap();
                session.write_all(b"hello").unwrap();
                thread::sleep(Duration::from_millis(20));
                session.end().unwrap();
                assert_eq!(session.rest().unwrap(), b"hello");
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    assert!((1..=3).contains(&most.1.load(SeqCst)), "{:?}", most.1);
}

#[test]
fn one_place_is_enough_for_one_after_the_other() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app --max-concurrent-conns 1");
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    for _ in 0..10 {
        assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
        // A refused one gives its place back too.
        assert!(Caller::new(&pki.ca, None).says(adit.addr, "hello").is_err());
    }
    assert_eq!(adit.stop(), 0);
}

/// Silent ones hold all places: no longer than a handshake may take.
#[test]
fn places_taken_by_silent_ones_are_given_back() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let flags = "--allow-cn app --max-concurrent-conns 2 --connect-timeout 500ms";
    let adit = Adit::start(pki.server(echo.addr) + flags);
    let silent: Vec<_> = (0..6).map(|_| dial(adit.addr)).collect();
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    is_served(&caller, adit.addr);
    wait_until("they are given up", LIMIT, || adit.count("tls_timeout") >= 4);
    drop(silent);
}

/// Silent ones take no place of those who have proven who they are, and where there are too many
/// of them the oldest goes: a good caller does not even wait.
#[test]
fn silent_callers_keep_nobody_out() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let flags = "--allow-cn app --max-concurrent-conns 2 --connect-timeout 60s";
    let adit = Adit::start(pki.server(echo.addr) + flags);
    let silent: Vec<_> = (0..1100).map(|_| TcpStream::connect(adit.addr).unwrap()).collect();
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    for _ in 0..3 {
        assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
    }
    adit.logs("reason=\"overloaded\" … closed before it was authenticated, in favour of a newer connection");
    assert_eq!(adit.count("tls_timeout"), 0);
    wait_until("the others are still there", LIMIT, || adit.descriptors() > 1000);
    drop(silent);
}

/// The one who holds the only place is drained; who waits in the queue is not served by a server
/// that is about to go.
#[test]
fn a_drain_with_a_full_house_ends() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app --max-concurrent-conns 1");
    let mut first = Caller::new(&pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
    let waiting = TcpStream::connect(adit.addr).unwrap();
    adit.signal(nix::sys::signal::Signal::SIGTERM);
    adit.logs("draining");
    first.write_all(b"hello").unwrap();
    first.end().unwrap();
    assert_eq!(first.rest().unwrap(), b"hello");
    assert_eq!(adit.exit_code(), 0);
    drop(waiting);
}

#[test]
fn garbage_by_the_hundred_is_shaken_off() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app --connect-timeout 1s");
    let hello = client_hello(&pki);
    let open = adit.descriptors();
    for n in 0..120_usize {
        let mut socket = TcpStream::connect(adit.addr).unwrap();
        let mut words = hello.clone();
        let at = n * 7 % words.len();
        words[at] ^= 1 << (n % 8);
        words.truncate(words.len() - n % 50);
        let _ = socket.write_all(&words);
        if n % 3 == 0 {
            reset(socket);
        }
    }
    is_served(&Caller::new(&pki.ca, Some(&pki.app)), adit.addr);
    wait_until("all are recorded", LIMIT, || adit.count("direction") >= 121);
    wait_until("nothing is open", LIMIT, || adit.descriptors() <= open);
    assert_eq!(echo.taken(), 1);
}

/// A hello in a thousand records, one byte each: rustls looks through all of them each time.
#[test]
fn a_hello_in_crumbs_is_cut_off_long_before_its_end() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app --connect-timeout 15s");
    let mut socket = dial(adit.addr);
    // A ClientHello of 60,000 bytes is announced.
    let mut crumbs = vec![22, 3, 1, 0, 4, 1, 0, 0xEA, 0x60];
    for _ in 0..5_000 {
        crumbs.extend([22, 3, 1, 0, 1, 0]);
    }
    let _ = socket.write_all(&crumbs);
    let _ = socket.read_to_end(&mut Vec::new());
    adit.logs("tls_failure … the handshake has more than");
    assert_eq!(echo.taken(), 0);
}
