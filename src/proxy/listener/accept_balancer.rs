//! Which worker serves a fresh connection: whoever accepts it, unless another has clearly less;
//! then it is handed over, once, before anything is read, and stays where it is. One that follows
//! others which have not arrived yet goes to the worker that has those, so that it need not wait
//! for them.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{net::TcpStream, sync::mpsc};

use crate::hbone::order::Tie;

/// What goes with a connection to the worker that serves it.
pub trait Arrival: Send + 'static {
    /// Where it is best served.
    fn tie(&self) -> Tie;

    /// Which worker it is given to.
    fn goes_to(&self, worker: usize);
}

/// A tunnel: each is in order for itself.
impl Arrival for () {
    fn tie(&self) -> Tie {
        Tie::None
    }

    fn goes_to(&self, _: usize) {}
}

/// A connection on its way to another worker, counted there already.
type Fresh<A> = (std::net::TcpStream, SocketAddr, A, ConnectionGuard);

/// A connection that is served here.
pub type Taken<A> = (TcpStream, SocketAddr, A, ConnectionGuard);

/// One worker's end of the balancing at one port.
pub struct AcceptBalancer<A> {
    own: usize,
    all: Arc<[Load<A>]>,
    /// Another has clearly less if it lacks more than one in so many of what this one has.
    part: usize,
    handed: mpsc::Receiver<Fresh<A>>,
}

struct Load<A> {
    live: Arc<AtomicUsize>,
    hand: mpsc::Sender<Fresh<A>>,
}

/// Counts as one live connection of a worker until dropped.
pub struct ConnectionGuard(Arc<AtomicUsize>);

impl ConnectionGuard {
    fn at(live: &Arc<AtomicUsize>) -> Self {
        live.fetch_add(1, Relaxed);
        Self(Arc::clone(live))
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// How many may be on their way to one worker; more stay where they are.
const ON_THEIR_WAY: usize = 256;

impl<A: Arrival> AcceptBalancer<A> {
    /// A balancer for each of `workers`, where each accepts.
    pub fn all(workers: usize) -> Vec<Self> {
        Self::with_part(workers, HALF)
    }

    /// The same where one accepts for all: nobody else spreads what comes.
    pub fn of_one(workers: usize) -> Vec<Self> {
        Self::with_part(workers, EIGHTH)
    }

    fn with_part(workers: usize, part: usize) -> Vec<Self> {
        let (loads, handed): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (hand, handed) = mpsc::channel(ON_THEIR_WAY);
                (Load { live: Arc::default(), hand }, handed)
            })
            .unzip();
        let all: Arc<[Load<A>]> = loads.into();
        let balancer = |(own, handed)| Self { own, all: Arc::clone(&all), part, handed };
        handed.into_iter().enumerate().map(balancer).collect()
    }

    /// How many connections of this port are live, on all workers.
    pub fn live(&self) -> usize {
        self.all.iter().map(|load| load.live.load(Relaxed)).sum()
    }

    /// Waits for a connection that another worker hands over. Cancel safe.
    ///
    /// # Errors
    /// If this worker cannot poll it.
    pub async fn handed(&mut self) -> io::Result<Taken<A>> {
        let Some((socket, peer, arrival, place)) = self.handed.recv().await else {
            return std::future::pending().await; // never: this balancer holds a sender too
        };
        Ok((TcpStream::from_std(socket)?, peer, arrival, place))
    }

    /// What was handed over before this worker stopped to accept; others keep theirs from here on.
    pub async fn left(&mut self) -> Option<Taken<A>> {
        self.handed.close();
        let (socket, peer, arrival, place) = self.handed.recv().await?;
        Some((TcpStream::from_std(socket).ok()?, peer, arrival, place))
    }

    /// Takes a connection, or hands it to a worker that has clearly less to do or those before it
    /// (`None`).
    pub fn take(&self, socket: TcpStream, peer: SocketAddr, arrival: A) -> Option<Taken<A>> {
        let to = self.choose(arrival.tie());
        let way = (to != self.own).then(|| self.all[to].hand.try_reserve());
        let Some(Ok(way)) = way else {
            arrival.goes_to(self.own);
            return Some((socket, peer, arrival, ConnectionGuard::at(&self.all[self.own].live)));
        };
        arrival.goes_to(to);
        match socket.into_std() {
            Ok(socket) => {
                way.send((socket, peer, arrival, ConnectionGuard::at(&self.all[to].live)))
            }
            Err(error) => tracing::debug!(%error, "a newly accepted connection was lost"),
        }
        None
    }

    fn choose(&self, tie: Tie) -> usize {
        let live = |worker: usize| self.all[worker].live.load(Relaxed);
        let (home, part) = match tie {
            Tie::None => (self.own, self.part),
            Tie::Loose(worker) => (worker, QUARTER),
            Tie::Tight(worker) => return worker,
        };
        let least = (0..self.all.len()).min_by_key(|worker| live(*worker));
        least.filter(|least| is_clearly_less(live(*least), live(home), part)).unwrap_or(home)
    }
}

/// By two at least: a hand-over costs a wake of the other thread.
fn is_clearly_less(least: usize, own: usize, part: usize) -> bool {
    own >= least + 2 && own - least > own / part
}

const HALF: usize = 2;
/// A connection that leaves those before it waits for their answers: a burst does so a few times,
/// each time with more behind it.
const QUARTER: usize = 4;
const EIGHTH: usize = 8;

#[cfg(test)]
mod tests {
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
}
