//! Two workers share what one listener takes.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::SocketAddr,
};

use crate::{
    backends::{Backend, dial},
    peers::Caller,
    pki::Pki,
    ports::free,
    process::Adit,
    wait::{LIMIT, wait_until},
};

/// The connections that were taken at a port and are not closed there, by the caller's port: their
/// sockets as the kernel numbers them.
fn taken(port: u16) -> BTreeMap<u16, u64> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let port_of = |at: &str| u16::from_str_radix(at.rsplit(':').next().unwrap(), 16).unwrap();
    // Established, and ended by the caller alone.
    let ours = rows.filter(|row| port_of(row[1]) == port && ["01", "08"].contains(&row[3]));
    ours.map(|row| (port_of(row[2]), row[9].parse().unwrap())).collect()
}

/// Which worker has each of them: the one in whose epoll instance its socket is, which goes by its
/// first descriptor.
fn workers(adit: &Adit) -> BTreeMap<u16, u32> {
    let process = format!("/proc/{}", adit.pid());
    let fds = fs::read_dir(format!("{process}/fd")).unwrap();
    let fds = fds.filter_map(|fd| fd.ok()?.file_name().to_str()?.parse().ok());
    let mut watched = BTreeMap::<u32, BTreeSet<u64>>::new();
    for fd in fds {
        let is_epoll = fs::read_link(format!("{process}/fd/{fd}"))
            .is_ok_and(|to| to.to_str() == Some("anon_inode:[eventpoll]"));
        if !is_epoll {
            continue;
        }
        let info = fs::read_to_string(format!("{process}/fdinfo/{fd}")).unwrap_or_default();
        let inode = |line: &str| {
            let (_, inode) = line.split_once("ino:")?;
            u64::from_str_radix(inode.split_whitespace().next()?, 16).ok()
        };
        watched.insert(fd, info.lines().filter_map(inode).collect());
    }
    let by = |socket| watched.iter().find(|(_, all)| all.contains(&socket)).map(|(fd, _)| *fd);
    let taken = taken(adit.addr.port()).into_iter();
    taken.filter_map(|(caller, socket)| Some((caller, by(socket)?))).collect()
}

fn echoes(stream: &mut (impl Read + Write)) {
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut [0; 5])).unwrap();
}

/// By who is awake first alone, about half of the last would go to the worker that has all others.
fn hand_over(adit: &Adit, open: &mut dyn FnMut() -> (SocketAddr, Box<dyn Any>)) {
    let mut open = || {
        let (at, caller) = open();
        (at.port(), caller)
    };
    let mut held: BTreeMap<u16, _> = (0..24).map(|_| open()).collect();
    let by = workers(adit);
    assert_eq!(by.len(), held.len(), "each is seen");
    let count = |worker: &u32| by.values().filter(|by| *by == worker).count();
    let busy = *by.values().max_by_key(|worker| count(worker)).unwrap();
    assert!(count(&busy) < held.len(), "two workers take part");
    held.retain(|caller, _| by[caller] == busy);
    let left = held.len();
    wait_until("the others are gone", LIMIT, || taken(adit.addr.port()).len() == left);
    for n in 0..(left - 1) / 2 - 1 {
        let (caller, open) = open();
        held.insert(caller, open);
        assert_ne!(workers(adit)[&caller], busy, "connection {n} behind {left}");
    }
}

#[test]
fn who_has_clearly_less_is_handed_the_next_connections() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let credential = |name: &str| {
        let at = |end: &str| pki.at(&format!("{name}.{end}"));
        let (certificate, key, roots) = (at("crt"), at("key"), pki.at("ca.pem"));
        format!("credential: {{ certificate: {certificate}, privateKey: {key}, roots: {roots} }}")
    };
    let start = |name: &str, target: SocketAddr, more: String| {
        let listen = format!("127.0.0.1:{}", free().port());
        let file = format!("{name}.yaml");
        let text = format!(
            "workers: 2\nservices:\n- {{ name: {name}, mode: {name}, listen: '{listen}', \
             target: '{target}', {more} }}\n"
        );
        pki.write(&file, text);
        Adit::start(format!("proxy -c {}", pki.at(&file)))
    };
    let allow = "allow: { commonNames: [app] }, maxConnections: 100";
    let server = start("server", echo.addr, format!("{}, {allow}", credential("server")));
    let verify = "verify: { ids: ['spiffe://td.test/db'] }, maxConnections: 100";
    let client = start("client", server.addr, format!("{}, {verify}", credential("app")));
    hand_over(&client, &mut || {
        let mut socket = dial(client.addr);
        echoes(&mut socket);
        (socket.local_addr().unwrap(), Box::new(socket))
    });
    hand_over(&server, &mut || {
        let mut session = Caller::new(&pki.ca, Some(&pki.app)).dial(server.addr).unwrap();
        echoes(&mut session.0);
        (session.0.sock.local_addr().unwrap(), Box::new(session))
    });
    assert_eq!((client.stop(), server.stop()), (0, 0));
}
