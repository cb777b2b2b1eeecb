//! Which worker serves a fresh connection: the kernel spreads them by hash, which may give one
//! worker all of a few. Who has clearly more than another hands the next one over, once,
//! before anything is read; after that a connection stays where it is.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{net::TcpStream, sync::mpsc};

/// A connection on its way to another worker.
type Fresh = (std::net::TcpStream, SocketAddr);

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

/// Counts as one live connection of its desk until dropped.
pub(super) struct Place(Arc<AtomicUsize>);

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

    /// Counts a connection that is served here.
    pub(super) fn place(&self) -> Place {
        let live = Arc::clone(&self.all[self.own].live);
        live.fetch_add(1, Relaxed);
        Place(live)
    }

    /// Waits for a connection that another worker hands over. Cancel safe.
    pub(super) async fn handed(&mut self) -> Fresh {
        match self.handed.recv().await {
            Some(fresh) => fresh,
            None => std::future::pending().await, // never: this desk holds a sender too
        }
    }

    /// Hands a connection to a worker that has clearly less to do; gives it back if there is
    /// none.
    pub(super) fn hand_over(&self, socket: TcpStream, peer: SocketAddr) -> Option<TcpStream> {
        let live = |load: &Load| load.live.load(Relaxed);
        let own = live(&self.all[self.own]);
        let Some(least) = self.all.iter().min_by_key(|load| live(load)) else {
            return Some(socket);
        };
        if !is_clearly_less(live(least), own) {
            return Some(socket);
        }
        let Ok(place) = least.hand.try_reserve() else { return Some(socket) };
        match socket.into_std() {
            Ok(socket) => place.send((socket, peer)),
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
        for _ in 0..2 {
            let (socket, peer) = pair().await;
            assert!(own.hand_over(socket, peer).is_some(), "{} here", places.len());
            places.push(own.place());
        }
        let (socket, peer) = pair().await;
        assert!(own.hand_over(socket, peer).is_none());
        assert_eq!(other.handed().await.1, peer);
        places.push(other.place());
        let (socket, peer) = pair().await;
        assert!(own.hand_over(socket, peer).is_some(), "2 and 1");
        drop(places);
        assert_eq!(own.all[0].live.load(Relaxed) + own.all[1].live.load(Relaxed), 0);
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
