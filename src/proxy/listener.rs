//! Accept loops: one per port and worker.
//!
//! Whoever accepts a connection gives it to the worker that serves it from then on: itself, unless
//! another has clearly less to do; then it is handed over, once, before anything is read, and stays
//! there ([`AcceptBalancer`]). One that follows others which have not arrived yet goes to the worker
//! that has those, so that it need not wait for them.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use futures_util::FutureExt as _;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    hbone::order::Tie,
    lifecycle::{AcceptBackoff, Tasks, is_of_one_connection},
    sys::descriptors::is_reserved,
};

/// One worker's part of a port, as far as its accept loop depends on whose port it is.
pub trait Port: Send {
    /// What goes with a connection to the worker that serves it.
    type Arrival: Arrival;

    /// The next connection; never comes where another worker accepts for this one. Cancel safe.
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;

    /// A connection that waits in the kernel's queue, which closing the port would reset; none if
    /// there is none, or the queue stays open elsewhere. Does not wait.
    fn queued(&mut self) -> Option<(TcpStream, SocketAddr)> {
        None
    }

    /// Finds out about an accepted connection, without waiting; `None` drops it.
    fn arrived(&mut self, socket: &TcpStream, peer: SocketAddr) -> Option<Self::Arrival>;

    /// Whether the port must do without the descriptor of one more connection, where it has `live`
    /// of them.
    fn is_too_much(&self, fd: BorrowedFd<'_>, live: usize) -> bool;

    /// How logs and metrics call it.
    fn name(&self) -> &str;

    /// Counts that nothing could be accepted.
    fn accept_failed(&self);
}

/// How many connections are accepted before others get their turn.
const IN_A_ROW: u32 = 4;

/// How many of a port's queue are accepted at a stop: as many as it holds at once, where new ones
/// come all the time.
const LAST: usize = 4096;

/// Accepts until `stop`, and then what waits in the queue already. Gives each connection to `serve` as
/// a task of its own, here or on a worker that has less to do.
///
/// When descriptors or memory run out the loop backs off instead of spinning, and counts it; where
/// descriptors are short, that is when this port has its part of them.
pub async fn accept_loop<P, S, F>(
    mut port: P,
    mut balancer: AcceptBalancer<P::Arrival>,
    tasks: Tasks,
    stop: CancellationToken,
    serve: S,
) where
    P: Port,
    S: Fn(TcpStream, SocketAddr, P::Arrival) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut backoff = AcceptBackoff::new(port.name());
    let mut resume = Instant::now();
    let mut row = 0;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = async {
                sleep_until(resume).await;
                port.accept().await
            } => accepted.and_then(|(socket, peer)| {
                let fd = socket.as_fd();
                if is_reserved(fd) || port.is_too_much(fd, balancer.live()) {
                    return Err(nix::errno::Errno::EMFILE.into());
                }
                let Some(arrival) = port.arrived(&socket, peer) else { return Ok(None) };
                Ok(balancer.take(socket, peer, arrival))
            }),
            handed = balancer.handed() => handed.map(Some),
        };
        match accepted {
            Ok(taken) => {
                backoff.succeeded();
                let Some((socket, peer, arrival, place)) = taken else { continue };
                // Not awaited in a block of its own, which would hold the future twice.
                tasks.spawn(serve(socket, peer, arrival).map(|()| drop(place)));
                // In a burst the streams that are open get their turns in between.
                row = (row + 1) % IN_A_ROW;
                if row == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                port.accept_failed();
                resume = Instant::now() + backoff.note(&error);
            }
        }
    }
    // A caller that waits has been told by the kernel that it is connected.
    for n in 1..=LAST {
        let Some((socket, peer)) = port.queued() else { break };
        let fd = socket.as_fd();
        if is_reserved(fd) || port.is_too_much(fd, balancer.live()) {
            port.accept_failed();
            break;
        }
        let arrived = port.arrived(&socket, peer);
        let taken = arrived.and_then(|arrival| balancer.take(socket, peer, arrival));
        if let Some((socket, peer, arrival, place)) = taken {
            tasks.spawn(serve(socket, peer, arrival).map(|()| drop(place)));
        }
        if n % IN_A_ROW as usize == 0 {
            tokio::task::yield_now().await;
        }
    }
    drop(port);
    // What another worker has handed over already was accepted, and nobody else has it.
    while let Some((socket, peer, arrival, place)) = balancer.left().await {
        tasks.spawn(serve(socket, peer, arrival).map(|()| drop(place)));
    }
}

/// What goes with a connection to the worker that serves it.
pub trait Arrival: Send + 'static {
    /// Which worker serves it best. [`Tie::Loose`]: the one that has those before it, unless another
    /// has much less: there it takes another tunnel, and waits until those before it are answered.
    /// [`Tie::Tight`]: that one, as answers are slow.
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
type HandedConn<A> = (std::net::TcpStream, SocketAddr, A, ConnectionGuard);

/// A connection that is served here.
pub type Taken<A> = (TcpStream, SocketAddr, A, ConnectionGuard);

/// One worker's end of the balancing at one port.
pub struct AcceptBalancer<A> {
    own: usize,
    all: Arc<[Load<A>]>,
    /// Another has clearly less if it lacks more than one in so many of what this one has.
    part: usize,
    handed: mpsc::Receiver<HandedConn<A>>,
}

struct Load<A> {
    live: Arc<AtomicUsize>,
    hand: mpsc::Sender<HandedConn<A>>,
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

    /// A balancer for each of `workers`, where one accepts for all: nobody else spreads what comes.
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
        loop {
            let (socket, peer, arrival, place) = self.handed.recv().await?;
            match TcpStream::from_std(socket) {
                Ok(socket) => return Some((socket, peer, arrival, place)),
                Err(error) => tracing::debug!(%error, "a connection that was handed over was lost"),
            }
        }
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
mod tests;
