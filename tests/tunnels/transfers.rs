//! What goes in comes out: sizes around every limit, both directions at once, many streams.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use rand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, sleep, timeout},
};

use crate::{
    harness::Test,
    pattern::Pattern,
    tunnel::{ALL, Ends, Tunnel, run},
};

pub(crate) const TESTS: &[Test] = &[
    ("transfers::all_sizes_pass_both_ways_at_once", all_sizes_pass_both_ways_at_once),
    ("transfers::a_half_closed_side_is_answered", a_half_closed_side_is_answered),
    ("transfers::a_thousand_streams_come_and_go", a_thousand_streams_come_and_go),
    ("transfers::streams_share_a_tunnel_evenly", streams_share_a_tunnel_evenly),
    ("transfers::a_stalled_reader_holds_up_nobody_else", a_stalled_reader_holds_up_nobody_else),
    ("transfers::who_comes_later_passes_by_the_bulk", who_comes_later_passes_by_the_bulk),
    ("transfers::what_is_held_for_a_stalled_reader_is_bounded", what_is_held_is_bounded),
];

/// A fifth in debug builds, whose copies are slow.
const LARGE: usize = if cfg!(debug_assertions) { 20_000_000 } else { 100_000_000 };

pub(crate) async fn write(mut to: OwnedWriteHalf, mut bytes: Pattern, total: usize) {
    while bytes.at < total {
        let most = [1, 1000, 20_000, 300_000][rand::rng().random_range(0..4)];
        let part = bytes.next(rand::rng().random_range(1..=most).min(total - bytes.at));
        to.write_all(part).await.expect("written");
    }
    to.shutdown().await.expect("half-closed");
    to.forget();
}

pub(crate) async fn read(mut from: OwnedReadHalf, mut bytes: Pattern, total: usize) {
    let (mut buffer, mut paused) = (vec![0; 256 * 1024], false);
    loop {
        match from.read(&mut buffer).await.expect("no reset") {
            0 => break,
            n => bytes.expect(&buffer[..n]),
        }
        // Once, long enough that what comes has to wait in the tunnel.
        if total >= LARGE && !paused && bytes.at > total / 4 {
            paused = true;
            sleep(Duration::from_millis(300)).await;
        }
    }
    assert_eq!(bytes.at, total, "all of it");
}

/// Both applications of one stream.
pub(crate) async fn apps(tunnel: &Tunnel, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let to = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(tunnel.connect(to), listener.accept());
    (near.expect("a stream"), far.unwrap().0)
}

async fn transfer(near: TcpStream, far: TcpStream, bytes: usize, seed: usize) {
    let (up, down) = (Pattern::new(seed), Pattern::new(seed + 1));
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::join!(
        write(near_write, up, bytes),
        read(far_read, up, bytes),
        write(far_write, down, bytes),
        read(near_read, down, bytes),
    );
}

fn all_sizes_pass_both_ways_at_once() {
    for ends in ALL {
        run(async {
            let tunnel = Tunnel::new(ends).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            for bytes in [0, 1, 1000, 16_383, 16_384, 16_385, 1_000_000, LARGE] {
                let (near, far) = apps(&tunnel, &listener).await;
                transfer(near, far, bytes, bytes % 1000).await;
            }
        });
    }
}

fn a_half_closed_side_is_answered() {
    for ends in ALL {
        run(async {
            let tunnel = Tunnel::new(ends).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            for near_asks in [true, false] {
                let (near, far) = apps(&tunnel, &listener).await;
                let (mut asks, mut answers) = if near_asks { (near, far) } else { (far, near) };
                asks.write_all(b"question").await.unwrap();
                asks.shutdown().await.unwrap();
                let mut question = String::new();
                answers.read_to_string(&mut question).await.unwrap();
                assert_eq!(question, "question");
                sleep(Duration::from_millis(20)).await;
                answers.write_all(b"answer").await.unwrap();
                answers.shutdown().await.unwrap();
                let mut answer = String::new();
                asks.read_to_string(&mut answer).await.unwrap();
                assert_eq!(answer, "answer", "{ends:?}");
            }
        });
    }
}

fn a_thousand_streams_come_and_go() {
    for ends in ALL {
        run(async {
            let tunnel = Tunnel::new(ends).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // Fifty at a time, and the next fifty when those are done.
            for round in 0..20 {
                let mut streams = Vec::new();
                for n in 0..50 {
                    let (near, far) = apps(&tunnel, &listener).await;
                    streams.push(transfer(near, far, 100 + n, round * 100 + 2 * n));
                }
                futures_util::future::join_all(streams).await;
            }
        });
    }
}

/// Round robin: whoever has much to say does not silence who else has.
fn streams_share_a_tunnel_evenly() {
    run(async {
        let tunnel = Tunnel::new(Ends::Adit).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shares: Vec<_> = (0..6).map(|_| AtomicU64::new(0)).collect();
        let mut streams = Vec::new();
        for share in &shares {
            let (mut near, mut far) = apps(&tunnel, &listener).await;
            let total = || shares.iter().map(|s| s.load(Relaxed)).sum::<u64>();
            streams.push(async move {
                let send = async { while near.write_all(&[7; 256 * 1024]).await.is_ok() {} };
                let receive = async {
                    let mut buffer = vec![0; 256 * 1024];
                    while total() < 60_000_000 {
                        let n = far.read(&mut buffer).await.unwrap();
                        share.fetch_add(n as u64, Relaxed);
                    }
                };
                tokio::select! { () = send => {}, () = receive => {} }
            });
        }
        futures_util::future::join_all(streams).await;
        let shares: Vec<_> = shares.into_iter().map(AtomicU64::into_inner).collect();
        assert!(shares.iter().all(|s| *s > 6_500_000), "{shares:?} of 60 MB");
    });
}

/// A tunnel whose socket is full is left alone: the next streams have one of their own.
fn who_comes_later_passes_by_the_bulk() {
    run(async {
        let tunnel = Tunnel::new(Ends::Adit).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut calm, mut answers) = apps(&tunnel, &listener).await;
        let (mut first, _) = apps(&tunnel, &listener).await;
        first.write_all(b"x").await.unwrap();
        assert_eq!(*tunnel.taken.lock().unwrap(), [2], "one tunnel while there is little to do");

        let (mut near, mut far) = apps(&tunnel, &listener).await;
        let send = async { while near.write_all(&[7; 256 * 1024]).await.is_ok() {} };
        let receive = async {
            let mut buffer = vec![0; 256 * 1024];
            while far.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        };
        let later = async {
            let mut others = Vec::new();
            while tunnel.taken.lock().unwrap().len() < 2 {
                sleep(Duration::from_millis(20)).await;
                others.push(apps(&tunnel, &listener).await);
            }
            let before = tunnel.taken.lock().unwrap()[0];
            for _ in 0..5 {
                others.push(apps(&tunnel, &listener).await);
            }
            assert_eq!(tunnel.taken.lock().unwrap()[0], before, "none behind the bulk");
            // Who was there before stays where it is.
            calm.write_all(b"ping").await.unwrap();
            let mut ping = [0; 4];
            answers.read_exact(&mut ping).await.unwrap();
            assert!(tunnel.taken.lock().unwrap().len() <= 4);
        };
        tokio::select! { () = send => {}, () = receive => {}, () = later => {} }
    });
}

/// Kernel buffers of the stalled application's connection are not ours: what the far end has
/// written to its socket is in them. The rest of what was sent is held by one of the ends.
fn a_stalled_reader_holds_up_nobody_else() {
    for ends in [Ends::H2ToAdit, Ends::Adit] {
        run(async {
            let tunnel = Tunnel::new(ends).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (mut near, mut far) = apps(&tunnel, &listener).await;
            let meter = tunnel.meters.lock().unwrap()[0].clone();
            let (mut stalled, mut sent) = (Pattern::new(77), 0);
            // Fill it until nothing moves for a while.
            while let Ok(n) = timeout(Duration::from_millis(300), async {
                let mut next = stalled;
                near.write(next.next(64 * 1024)).await.unwrap()
            })
            .await
            {
                stalled.next(n);
                sent = sent.max(stalled.at);
            }
            let written = meter.down.load(Relaxed) as usize;
            assert!(written > 0 && sent > written, "{sent} sent, {written} written");

            let began = Instant::now();
            let mut siblings = Vec::new();
            for n in 0..10 {
                let (near, far) = apps(&tunnel, &listener).await;
                siblings.push(transfer(near, far, 1_000_000, 10 * n));
            }
            futures_util::future::join_all(siblings).await;
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            assert_eq!(meter.down.load(Relaxed) as usize, written, "still stalled");

            // Nothing of the stalled stream is lost.
            let total = stalled.at;
            near.shutdown().await.unwrap();
            let (mut bytes, mut buffer) = (Pattern::new(77), vec![0; 64 * 1024]);
            while let n @ 1.. = far.read(&mut buffer).await.unwrap() {
                bytes.expect(&buffer[..n]);
            }
            assert_eq!(bytes.at, total);
        });
    }
}

/// The peer may send what the window allows: all but 256 KiB of it is in the kernel.
fn what_is_held_is_bounded() {
    // At once, and with a window that has grown while the application still read.
    for read_first in [0, 20_000_000] {
        run(async {
            let tunnel = Tunnel::new(Ends::H2ToAdit).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let to = listener.local_addr().unwrap();
            let (mut send, far) = tokio::join!(tunnel.stream(to), listener.accept());
            let mut far = far.unwrap().0;
            let reader = async {
                let (mut left, mut buffer) = (read_first, vec![0; 256 * 1024]);
                while left > 0 {
                    let most = left.min(buffer.len());
                    left -= far.read(&mut buffer[..most]).await.unwrap();
                }
            };
            let mut sent = 0;
            let writer = async {
                loop {
                    send.reserve_capacity(100_000);
                    let room = poll_fn(|cx| send.poll_capacity(cx));
                    let Ok(room) = timeout(Duration::from_millis(500), room).await else { break };
                    let n = room.unwrap().unwrap();
                    sent += n;
                    send.send_data(vec![7; n].into(), false).unwrap();
                }
            };
            tokio::join!(reader, writer);
            let meter = tunnel.meters.lock().unwrap()[0].clone();
            let held = sent - meter.down.load(Relaxed) as usize;
            assert!((1..=256 * 1024).contains(&held), "{held} of {sent} are held");
        });
    }
}
