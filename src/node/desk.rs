//! Which worker serves a fresh connection: the kernel spreads them by hash, which may give one
//! worker all of a few. Who has clearly more than another hands the next one over, once,
//! before anything is read; after that a connection stays where it is.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{net::TcpStream, sync::mpsc};

/// A connection on its way to another worker, counted there already.
type Fresh = (std::net::TcpStream, SocketAddr, Place);

/// One worker's share of what arrives at one port of one pod.
pub(super) struct Desk {
    own: usize,
    all: Arc<[Load]>,
    handed: mpsc::Receiver<Fresh>,
}

struct Load {
    live: Arc<AtomicUsize>,
    hand: mpsc::Sender<Fresh>,
}

/// Counts as one live connection of a desk until dropped.
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    fn at(load: &Load) -> Self {
        load.live.fetch_add(1, Relaxed);
        Self(Arc::clone(&load.live))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// How many may be on their way to one worker; more stay where they are.
const ON_THEIR_WAY: usize = 64;

impl Desk {
    /// A desk for each of `workers`.
    pub(super) fn all(workers: usize) -> Vec<Self> {
        let (loads, handed): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (hand, handed) = mpsc::channel(ON_THEIR_WAY);
                (Load { live: Arc::default(), hand }, handed)
            })
            .unzip();
        let all: Arc<[Load]> = loads.into();
        let desk = |(own, handed)| Self { own, all: Arc::clone(&all), handed };
        handed.into_iter().enumerate().map(desk).collect()
    }

    /// How many connections of this port are live, on all workers.
    pub(super) fn live(&self) -> usize {
        self.all.iter().map(|load| load.live.load(Relaxed)).sum()
    }

    /// Waits for a connection that another worker hands over. Cancel safe.
    ///
    /// # Errors
    /// If this worker cannot poll it.
    pub(super) async fn handed(&mut self) -> io::Result<(TcpStream, SocketAddr, Place)> {
        let Some((socket, peer, place)) = self.handed.recv().await else {
            return std::future::pending().await; // never: this desk holds a sender too
        };
        Ok((TcpStream::from_std(socket)?, peer, place))
    }

    /// What was handed over before this worker stopped to accept; others keep theirs from here on.
    pub(super) async fn left(&mut self) -> Option<(TcpStream, SocketAddr, Place)> {
        self.handed.close();
        let (socket, peer, place) = self.handed.recv().await?;
        Some((TcpStream::from_std(socket).ok()?, peer, place))
    }

    /// Takes a connection, or hands it to a worker that has clearly less to do (`None`).
    pub(super) fn take(&self, socket: TcpStream, peer: SocketAddr) -> Option<(TcpStream, Place)> {
        let (own, live) = (&self.all[self.own], |load: &Load| load.live.load(Relaxed));
        let least = self.all.iter().min_by_key(|load| live(load));
        let least = least.filter(|least| is_clearly_less(live(least), live(own)));
        let Some((least, Ok(way))) = least.map(|least| (least, least.hand.try_reserve())) else {
            return Some((socket, Place::at(own)));
        };
        match socket.into_std() {
            Ok(socket) => way.send((socket, peer, Place::at(least))),
            Err(error) => tracing::debug!(%error, "a fresh connection was lost"),
        }
        None
    }
}

/// By two at least, and by half: a hand-over costs a wake of the other thread.
fn is_clearly_less(least: usize, own: usize) -> bool {
    own >= least + 2 && own - least > own / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (TcpStream, SocketAddr) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        listener.accept().await.unwrap()
    }

    #[tokio::test]
    async fn who_has_two_more_hands_the_next_one_over() {
        let mut desks = Desk::all(2);
        let mut other = desks.pop().unwrap();
        let own = desks.pop().unwrap();
        let mut places = Vec::new();
        // A burst, before the other worker has seen any of it: no more go there than it lacks.
        for kept in [true, true, false, true, false, true] {
            let (socket, peer) = pair().await;
            let taken = own.take(socket, peer);
            assert_eq!(taken.is_some(), kept, "{} here", places.len());
            places.extend(taken.map(|(_, place)| place));
        }
        for _ in 0..2 {
            let (_, _, place) = other.handed().await.unwrap();
            places.push(place);
        }
        assert_eq!(own.all.iter().map(|l| l.live.load(Relaxed)).collect::<Vec<_>>(), [4, 2]);
        drop(places);
        assert!(own.all.iter().all(|l| l.live.load(Relaxed) == 0));
    }

    #[tokio::test]
    async fn what_was_handed_over_before_a_stop_is_served_and_nothing_more_comes() {
        let mut desks = Desk::all(2);
        let mut other = desks.pop().unwrap();
        let own = desks.pop().unwrap();
        let mut places = Vec::new();
        for _ in 0..3 {
            let (socket, peer) = pair().await;
            places.extend(own.take(socket, peer));
        }
        let there = own.all[1].live.load(Relaxed);
        assert_eq!((places.len(), there), (2, 1));
        assert!(other.left().await.is_some());
        assert!(other.left().await.is_none());
        let (socket, peer) = pair().await;
        assert!(own.take(socket, peer).is_some(), "it stays here");
    }

    #[test]
    fn many_connections_are_not_pushed_around_for_a_few() {
        let cases = [
            (0, 2, true),
            (0, 1, false),
            (30, 36, false),
            (24, 36, false),
            (15, 36, true),
            (5, 5, false),
        ];
        for (least, own, clearly) in cases {
            assert_eq!(is_clearly_less(least, own), clearly, "{least} and {own}");
        }
    }
}
