//! Connections that a pod makes one after the other arrive in that order.

use std::{
    cell::Cell,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::{
    lab::Lab,
    mesh::{PODS, allow},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("order::connections_through_tunnels_arrive_in_the_order_they_were_made", tunnelled),
    ("order::plain_connections_arrive_in_the_order_they_were_made", plain),
    ("order::connections_in_a_row_arrive_in_order_while_tunnels_fill_up", rows),
];

/// Pairs of connections, each tried through a service and by the pod's address.
const PAIRS: usize = 2_000;

/// Makes connections one after the other, says on each which one it is, the last first, and has
/// the server say in which order they came: whether it is another.
fn is_mixed_up(row: u8, connect: impl Fn() -> TcpStream, server: &TcpListener) -> bool {
    let mut made: Vec<_> = (0..row).map(|_| connect()).collect();
    for (n, socket) in made.iter_mut().enumerate().rev() {
        socket.write_all(&[u8::try_from(n).unwrap()]).unwrap();
    }
    let came: Vec<_> = made
        .iter()
        .map(|_| {
            let (mut socket, _) = server.accept().unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut number = [0];
            socket.read_exact(&mut number).unwrap();
            (number[0], socket)
        })
        .collect();
    !came.iter().map(|(number, _)| *number).eq(0..row)
}

/// How many of the pairs are swapped.
fn swapped(pairs: usize, connect: impl Fn() -> TcpStream, server: &TcpListener) -> usize {
    (0..pairs).filter(|_| is_mixed_up(2, &connect, server)).count()
}

/// Connects from ports that nobody else is given: adit speaks to the application from the caller's
/// address, and the kernel would take two connections of one port for one.
fn from_own_ports<'a>(lab: &'a Lab, pod: &'a str, to: &str) -> impl Fn() -> TcpStream + 'a {
    let (to, port) = (to.parse::<SocketAddr>().unwrap(), Cell::new(10_000));
    let limit = Duration::from_secs(5);
    move || {
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from(([0; 4], port.replace(port.get() + 1))).into())?;
            socket.connect_timeout(&to.into(), limit)?;
            std::io::Result::Ok(socket)
        };
        lab.netns(pod).run(connect).unwrap().unwrap().into()
    }
}

/// Has the workers differ: some have long connections of `pod`, and more come and go.
fn beside_others<T>(lab: &Lab, pod: &str, to: &str, run: impl FnOnce() -> T) -> T {
    let _long: Vec<TcpStream> = (0..9).map(|_| lab.connect(pod, to).unwrap()).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !over.load(Relaxed) {
                    let _ = lab.ask(pod, to);
                }
            });
        }
        let _ends = Ends(&over);
        run()
    })
}

/// Ends the load, also after a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn tunnelled() {
    let mut lab = Lab::new(PODS);
    let server = lab.listen("db", 8080);
    lab.echo("db", 8081);
    lab.start(&format!("workers: 3\n{}", allow(&["web"])));
    let swapped = ["10.96.0.10:80", "10.77.0.2:8080"].map(|to| {
        let connect = || lab.connect("web", to).unwrap();
        beside_others(&lab, "web", "10.77.0.2:8081", || swapped(PAIRS, connect, &server))
    });
    assert_eq!(swapped, [0; 2], "of {PAIRS} pairs each");
}

fn plain() {
    let mut lab = Lab::new(&[("web", 1), ("db", 2), ("out", 4)]);
    let (server, outside) = (lab.listen("db", 8080), lab.listen("out", 8080));
    lab.echo("db", 8081);
    lab.echo("out", 8081);
    lab.start(
        "workers: 3
mtls: permissive
workloads:
- { name: web, namespace: shop, serviceAccount: web, addresses: [10.77.0.1], netns: web }
- { name: db, namespace: shop, serviceAccount: db, addresses: [10.77.0.2], netns: db }
",
    );
    let connect = from_own_ports(&lab, "out", "10.77.0.2:8080");
    let inwards =
        beside_others(&lab, "web", "10.77.0.2:8081", || swapped(PAIRS / 2, connect, &server));
    let connect = || lab.connect("web", "10.77.0.4:8080").unwrap();
    let outwards =
        beside_others(&lab, "web", "10.77.0.4:8081", || swapped(PAIRS / 2, connect, &outside));
    assert_eq!([inwards, outwards], [0; 2], "of {} pairs each", PAIRS / 2);
}

/// A tunnel that has no room for the next one, and other tunnels that are there for it.
fn rows() {
    let mut lab = Lab::new(PODS);
    let server = lab.listen("db", 8080);
    lab.echo("db", 8081);
    lab.start(&format!("workers: 3\npool: {{ maxStreams: 7 }}\n{}", allow(&["web"])));
    let connect = || lab.connect("web", "10.96.0.10:80").unwrap();
    let mixed_up = beside_others(&lab, "web", "10.77.0.2:8081", || {
        (0..40).filter(|_| is_mixed_up(60, connect, &server)).count()
    });
    assert_eq!(mixed_up, 0, "of 40 rows");
}
