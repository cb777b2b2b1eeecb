//! Bulk through one worker from a TCP socket to another: the relay as it is (128 KiB copies)
//! beside splice(2) through pipes of 64 KiB and 1 MiB; over loopback, and over veth pairs
//! between namespaces where they may be made.

#[path = "cases/timing.rs"]
mod timing;

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::Command,
    sync::Arc,
    thread,
};

use adit::{
    relay::{self, App, End, Limits, tcp::TcpRemote},
    sys::{netns::Netns, sandbox},
};
use nix::{
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    time::ClockId,
    unistd::pipe2,
};
use tokio::{io::Interest, runtime::Builder};

use timing::{Cost, measured, median};

/// Looks at each case, taking turns.
const ROUNDS: usize = 5;
/// What goes through in one look, all streams together.
const BYTES: usize = 1 << 31;

#[derive(Clone, Copy)]
enum How {
    Copies,
    Splice { pipe: usize },
}

const WAYS: [(&str, How); 3] = [
    ("copies", How::Copies),
    ("splice 64 KiB", How::Splice { pipe: 64 << 10 }),
    ("splice 1 MiB", How::Splice { pipe: 1 << 20 }),
];

fn main() {
    let short = std::env::args().any(|arg| arg == "--test");
    let (rounds, bytes) = if short { (1, 1 << 24) } else { (ROUNDS, BYTES) };
    for net in nets() {
        for streams in [1, 4] {
            let mut looks = WAYS.map(|_| Vec::new());
            for _ in 0..rounds {
                for ((_, how), looks) in WAYS.iter().zip(&mut looks) {
                    looks.push(net.carry(*how, streams, bytes / streams));
                }
            }
            for ((way, _), looks) in WAYS.iter().zip(looks) {
                let of = |figure: fn(&Look) -> f64| median(looks.iter().map(figure));
                println!(
                    r#"{{"net":"{}","streams":{streams},"way":"{way}","gbit_s":{:.1},"worker_cpu_s_per_gb":{:.3},"all_cpu_s_per_gb":{:.3}}}"#,
                    net.name,
                    of(|l| l.bytes * 8e-9 / l.all.wall),
                    of(|l| l.worker / l.bytes * 1e9),
                    of(|l| l.all.cpu / l.bytes * 1e9),
                );
            }
        }
    }
}

/// Where the sender, the relay and the receiver are.
struct Net {
    name: &'static str,
    sender: Netns,
    relay: (Netns, Ipv4Addr),
    receiver: (Netns, Ipv4Addr),
}

/// One transfer, until the receivers have seen the end.
struct Look {
    bytes: f64,
    all: Cost,
    worker: f64,
}

fn nets() -> Vec<Net> {
    let entered = sandbox::enter().and_then(|()| ip("link set lo up"));
    let here = || Netns::current().expect("/proc");
    let at = |addr| (here(), addr);
    let lo = Ipv4Addr::LOCALHOST;
    let mut nets = vec![Net { name: "loopback", sender: here(), relay: at(lo), receiver: at(lo) }];
    let veth = entered.and_then(|()| {
        for (n, pod) in [(1, "sender"), (2, "receiver")] {
            ip(&format!("netns add {pod}"))?;
            ip(&format!("link add v{n} type veth peer name eth0 netns {pod}"))?;
            ip(&format!("addr add 10.77.{n}.1/24 dev v{n}"))?;
            ip(&format!("link set v{n} up"))?;
            ip(&format!("-n {pod} addr add 10.77.{n}.2/24 dev eth0"))?;
            ip(&format!("-n {pod} link set eth0 up"))?;
        }
        let pod = |name: &str| Netns::open(&Path::new("/run/netns").join(name));
        Ok(Net {
            name: "veth",
            sender: pod("sender")?,
            relay: at(Ipv4Addr::new(10, 77, 1, 1)),
            receiver: (pod("receiver")?, Ipv4Addr::new(10, 77, 2, 2)),
        })
    });
    match veth {
        Ok(net) => nets.push(net),
        Err(why) => eprintln!("without veth: {why}"),
    }
    nets
}

fn ip(arguments: &str) -> io::Result<()> {
    let done = Command::new("ip").args(arguments.split(' ')).output()?;
    let why = || format!("ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    if done.status.success() { Ok(()) } else { Err(io::Error::other(why())) }
}

impl Net {
    fn carry(&self, how: How, streams: usize, bytes: usize) -> Look {
        let pairs: Vec<_> = (0..streams).map(|_| self.connect()).collect();
        let mut worker = 0.0;
        let all = measured(|| {
            let (mut ends, mut between) = (Vec::new(), Vec::new());
            for [from, near, far, to] in pairs {
                ends.push(thread::spawn(move || send(from, bytes)));
                ends.push(thread::spawn(move || receive(to, bytes)));
                between.push((near, far));
            }
            let relay = thread::spawn(move || relay(between, how));
            ends.into_iter().for_each(|end| end.join().expect("an end"));
            worker = relay.join().expect("the relay");
        });
        Look { bytes: (bytes * streams) as f64, all, worker }
    }

    /// The sender's socket, the relay's two, the receiver's.
    fn connect(&self) -> [TcpStream; 4] {
        let listen = |(at, addr): &(Netns, Ipv4Addr)| {
            let open = || TcpListener::bind(SocketAddr::from((*addr, 0)));
            at.run(open).expect("entered").expect("a listener")
        };
        let dial = |at: &Netns, to: &TcpListener| {
            let addr = to.local_addr().expect("an address");
            at.run(|| TcpStream::connect(addr)).expect("entered").expect("connected")
        };
        let (relay, receiver) = (listen(&self.relay), listen(&self.receiver));
        let from = dial(&self.sender, &relay);
        let far = dial(&self.relay.0, &receiver);
        let (near, to) = (relay.accept().expect("near").0, receiver.accept().expect("to").0);
        [from, near, far, to]
    }
}

fn send(mut to: TcpStream, bytes: usize) {
    let data = vec![b'a'; 128 << 10];
    for at in (0..bytes).step_by(data.len()) {
        to.write_all(&data[..data.len().min(bytes - at)]).expect("sent");
    }
}

fn receive(mut from: TcpStream, bytes: usize) {
    let (mut buffer, mut got) = (vec![0; 256 << 10], 0);
    loop {
        match from.read(&mut buffer).expect("received") {
            0 => break,
            n => got += n,
        }
    }
    assert_eq!(got, bytes, "all of it, and the end");
}

/// One worker with all streams; the CPU seconds that it took.
fn relay(pairs: Vec<(TcpStream, TcpStream)>, how: How) -> f64 {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let carried = pairs.into_iter().map(|(near, far)| async move {
            let ours = |socket: TcpStream| {
                socket.set_nonblocking(true)?;
                tokio::net::TcpStream::from_std(socket)
            };
            let (near, far) = (ours(near).expect("near"), ours(far).expect("far"));
            match how {
                How::Copies => {
                    let (mut far, meter) = (TcpRemote::new(far), Arc::default());
                    let mut near = App::new(near);
                    let end = relay::run(&mut near, &mut far, &meter, &Limits::default()).await;
                    assert!(matches!(end, End::Completed));
                }
                How::Splice { pipe } => spliced(&near, &far, pipe).await.expect("carried"),
            }
        });
        carried.collect::<tokio::task::JoinSet<()>>().join_all().await;
    });
    timing::cpu(ClockId::CLOCK_THREAD_CPUTIME_ID).as_secs_f64()
}

/// One direction through a pipe, which is emptied before more is read.
async fn spliced(
    from: &tokio::net::TcpStream,
    to: &tokio::net::TcpStream,
    size: usize,
) -> io::Result<()> {
    let (outlet, inlet): (OwnedFd, OwnedFd) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    fcntl(&inlet, FcntlArg::F_SETPIPE_SZ(size as i32))?;
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        let into = || Ok(splice(from, None, &inlet, None, size, flags)?);
        let mut held = from.async_io(Interest::READABLE, into).await?;
        if held == 0 {
            return socket2::SockRef::from(to).shutdown(std::net::Shutdown::Write);
        }
        while held > 0 {
            let out = || Ok(splice(&outlet, None, to, None, held, flags)?);
            held -= to.async_io(Interest::WRITABLE, out).await?;
        }
    }
}
