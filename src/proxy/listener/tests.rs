use super::*;

async fn pair() -> (TcpStream, SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    listener.accept().await.unwrap()
}

/// Of connections that follow each other, or do not.
struct Told(Tie);

impl Arrival for Told {
    fn tie(&self) -> Tie {
        self.0
    }

    fn goes_to(&self, _: usize) {}
}

fn two() -> (AcceptBalancer<Told>, AcceptBalancer<Told>) {
    let mut balancers = AcceptBalancer::all(2);
    let other = balancers.pop().unwrap();
    (balancers.pop().unwrap(), other)
}

#[tokio::test]
async fn who_has_two_more_hands_the_next_one_over() {
    let (own, mut other) = two();
    let mut places = Vec::new();
    // A burst, before the other worker has seen any of it: no more go there than it lacks.
    for kept in [true, true, false, true, false, true] {
        let (socket, peer) = pair().await;
        let taken = own.take(socket, peer, Told(Tie::None));
        assert_eq!(taken.is_some(), kept, "{} here", places.len());
        places.extend(taken.map(|(.., place)| place));
    }
    for _ in 0..2 {
        let (.., place) = other.handed().await.unwrap();
        places.push(place);
    }
    assert_eq!(own.all.iter().map(|l| l.live.load(Relaxed)).collect::<Vec<_>>(), [4, 2]);
    drop(places);
    assert!(own.all.iter().all(|l| l.live.load(Relaxed) == 0));
}

#[tokio::test]
async fn what_follows_another_goes_where_that_went_until_one_has_clearly_less() {
    let (own, mut other) = two();
    let mut places = Vec::new();
    for (tie, kept) in [
        (Tie::None, true),
        (Tie::Loose(1), false),
        (Tie::Loose(1), false),
        (Tie::Loose(1), false), // 1 and 3 now: clearly less here
        (Tie::Loose(1), true),
        (Tie::Tight(1), false),
        (Tie::Tight(1), false),
    ] {
        let (socket, peer) = pair().await;
        let taken = own.take(socket, peer, Told(tie));
        assert_eq!(taken.is_some(), kept, "{tie:?} {}", places.len());
        places.extend(taken.map(|(.., place)| place));
        if !kept {
            places.push(other.handed().await.unwrap().3);
        }
    }
}

#[tokio::test]
async fn what_was_handed_over_before_a_stop_is_served_and_nothing_more_comes() {
    let (own, mut other) = two();
    let mut places = Vec::new();
    for _ in 0..3 {
        let (socket, peer) = pair().await;
        places.extend(own.take(socket, peer, Told(Tie::None)));
    }
    let there = own.all[1].live.load(Relaxed);
    assert_eq!((places.len(), there), (2, 1));
    assert!(other.left().await.is_some());
    assert!(other.left().await.is_none());
    let (socket, peer) = pair().await;
    assert!(own.take(socket, peer, Told(Tie::None)).is_some(), "it stays here");
}

#[test]
fn many_connections_are_not_pushed_around_for_a_few() {
    let cases = [
        (0, 2, HALF, true),
        (0, 1, HALF, false),
        (30, 36, HALF, false),
        (24, 36, HALF, false),
        (15, 36, HALF, true),
        (24, 36, QUARTER, true),
        (27, 36, QUARTER, false),
        (32, 36, EIGHTH, false),
        (31, 36, EIGHTH, true),
        (0, 1, EIGHTH, false),
        (5, 5, HALF, false),
    ];
    for (least, own, part, clearly) in cases {
        assert_eq!(is_clearly_less(least, own, part), clearly, "{least} and {own}");
    }
}

/// A port of which one worker accepts.
struct Alone(tokio::net::TcpListener);

impl Port for Alone {
    type Arrival = ();

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await
    }

    fn queued(&mut self) -> Option<(TcpStream, SocketAddr)> {
        crate::sys::sockets::accept_queued(&self.0)
    }

    fn arrived(&mut self, _: &TcpStream, _: SocketAddr) -> Option<()> {
        Some(())
    }

    fn is_too_much(&self, _: BorrowedFd<'_>, _: usize) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "alone"
    }

    fn accept_failed(&self) {}
}

#[tokio::test]
async fn who_waits_in_the_queue_at_a_stop_is_served_and_nobody_after_it() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..3 * IN_A_ROW {
        waiting.push(TcpStream::connect(addr).await.unwrap());
    }
    let (tasks, stop) = (Tasks::default(), CancellationToken::new());
    stop.cancel();
    let balancer = AcceptBalancer::all(1).pop().unwrap();
    let serve = |mut socket: TcpStream, _, ()| async move {
        socket.write_all(b"served").await.unwrap();
    };
    accept_loop(Alone(listener), balancer, tasks.clone(), stop, serve).await;
    for mut caller in waiting {
        let mut said = String::new();
        caller.read_to_string(&mut said).await.expect("no reset");
        assert_eq!(said, "served");
    }
    tasks.ended().await;
    assert!(TcpStream::connect(addr).await.is_err());
}
