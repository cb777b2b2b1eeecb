//! One tunnel's state between its socket and its streams. No waiting here: the driver
//! ([`super::driver`]) calls it when the socket is ready, streams ([`super::stream`]) when the
//! application is. All of them run on one worker, so the lock is never waited for.

mod received;

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{
    callers::Share,
    http2::{ByStream, Code, FEW, Failure, Http2, Limits, Request, Role},
    readers::TURN,
    write_scheduler::WriteScheduler,
};
use crate::{
    observe::conn::Meter,
    relay::buffers,
    tls::{
        Keys,
        record::{RecordError, Records},
    },
};

/// Where a stream's bytes go as they arrive, and where they are counted.
#[derive(Debug)]
pub(super) struct AppSink {
    pub(super) socket: Arc<TcpStream>,
    pub(super) meter: Arc<Meter>,
}

/// One stream, as far as its application's task must know.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The application's socket, once it is known: what arrives is written there at once.
    pub(super) outlet: Option<AppSink>,
    /// What its socket did not take, at most the stream's window.
    pub(super) queue: VecDeque<u8>,
    /// The peer has ended its direction.
    pub(super) ended: bool,
    /// The peer wants no more of ours.
    pub(super) unwanted: bool,
    /// The answer to CONNECT (client).
    pub(super) status: Option<u16>,
    /// The stream was reset.
    pub(super) reset: Option<Code>,
    /// The application's socket failed while we wrote to it.
    pub(super) app_error: Option<io::Error>,
    /// Why we ended it, if the peer asked for more than it may have.
    pub(super) stopped: Option<&'static str>,
    /// The peer did not process it: it may be asked of another tunnel.
    pub(super) unprocessed: bool,
    /// Who waits for any of this.
    pub(super) task: Option<Waker>,
}

impl Stream {
    pub(super) fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

/// Why a tunnel is over.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum TunnelError {
    #[error("closed")]
    Closed,
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("{0}")]
    Http2(#[from] Failure),
    #[error("the peer ended the tunnel with {0:?}")]
    GoAway(Code),
    #[error("{0}")]
    Io(Arc<io::Error>),
    #[error("{0}")]
    Silent(String),
}

impl From<io::Error> for TunnelError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// One tunnel.
pub(super) struct Core {
    pub(super) http2: Http2,
    pub(super) records: Records,
    pub(super) streams: ByStream<Stream>,
    turns: WriteScheduler,
    /// Requests that nobody has taken up yet (server).
    pub(super) incoming: VecDeque<(u32, Request)>,
    /// The start of a record whose rest has not come.
    pub(super) partial: Vec<u8>,
    /// What was opened, and is for the next turn.
    rest: received::Rest,
    /// What the streams' queues hold and the turns take, of what the peer may have (server).
    pub(super) share: Option<Share>,
    /// What was done in this turn.
    work: usize,
    /// What may be done in this turn.
    most: usize,
    /// How many turns without a rest it takes until reads are large again.
    narrow: u8,
    pub(super) over: Option<TunnelError>,
    /// The peer has said close_notify.
    pub(super) peer_closed: bool,
    pub(super) heard: Instant,
    /// When a socket buffer of this tunnel was last seen full, either way.
    pub(super) full: Option<Instant>,
    driver: Option<Waker>,
    woken: bool,
}

impl Core {
    pub(super) fn new(
        role: Role,
        limits: Limits,
        keys: Keys,
        share: Option<Share>,
    ) -> Result<Self, RecordError> {
        let now = Instant::now();
        Ok(Self {
            http2: Http2::new(role, limits, now),
            records: Records::new(keys)?,
            streams: ByStream::default(),
            turns: WriteScheduler::default(),
            incoming: VecDeque::new(),
            partial: Vec::new(),
            rest: received::Rest::default(),
            share,
            work: 0,
            most: TURN,
            narrow: 0,
            over: None,
            peer_closed: false,
            heard: now,
            full: None,
            driver: None,
            woken: false,
        })
    }

    /// Whether what is sent now waits behind much that is on its way already.
    pub(super) fn is_busy(&self) -> bool {
        self.full.is_some_and(|at| at.elapsed() < BUSY)
    }

    /// Something waits to be written: the driver's turn, after all who are ready now.
    pub(super) fn wake_driver(&mut self) {
        if !std::mem::replace(&mut self.woken, true)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    pub(super) fn driver_runs(&mut self, waker: &Waker) {
        self.woken = false;
        match &mut self.driver {
            Some(known) if known.will_wake(waker) => {}
            known => *known = Some(waker.clone()),
        }
    }

    /// Moves waiting frames into records: they go before any DATA that follows.
    pub(super) fn seal_control(&mut self) -> Result<(), TunnelError> {
        if self.http2.has_control() {
            self.records.sealer.lend(buffers::take);
            self.records.sealer.append(&self.http2.take_control())?;
        }
        Ok(())
    }

    /// Lays down one DATA frame; `false` if the windows have no room for all of it.
    pub(super) fn send(&mut self, id: u32, bytes: &[u8]) -> Result<bool, TunnelError> {
        if self.http2.sendable(id) < bytes.len() {
            return Ok(false);
        }
        self.seal_control()?;
        self.records.sealer.lend(buffers::take);
        let head = self.http2.data_head(id, bytes.len());
        self.records.sealer.append(&head)?;
        self.records.sealer.append(bytes)?;
        Ok(true)
    }

    /// Writes what waits until the socket is full. Control frames behind much that waits stay
    /// unsealed, where they are counted: a peer that reads no answers is cut off.
    pub(super) fn flush(&mut self, tcp: &TcpStream) -> Result<(), TunnelError> {
        loop {
            if self.records.sealer.waiting() < MOST_SEALED {
                self.seal_control()?;
            }
            if self.records.sealer.waiting() == 0 {
                break;
            }
            match tcp.try_write(self.records.pending()?) {
                Ok(n) => self.records.sealer.written(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e.into()),
            }
        }
        if let Some(storage) = self.records.sealer.give_back() {
            buffers::give(storage);
        }
        Ok(())
    }

    /// How many bytes a stream may write now; `None`: it is woken when it may. Whoever had a
    /// turn calls [`Core::next_turns`] behind it, used or not.
    pub(super) fn turn(&mut self, id: u32) -> Option<usize> {
        self.turns.take(id, self.records.sealer.waiting())
    }

    /// Lets those who wait for their turn write, as far as there is room.
    pub(super) fn next_turns(&mut self) {
        while let Some(id) = self.turns.next(self.records.sealer.waiting()) {
            match self.streams.get_mut(&id) {
                Some(stream) => stream.wake(),
                None => self.turns.forget(id),
            }
        }
    }

    /// A stream has nothing more to write: its turn goes to the next.
    pub(super) fn leave_line(&mut self, id: u32) {
        self.turns.forget(id);
        self.next_turns();
    }

    /// Forgets a stream; with the last one goes the room that many took.
    pub(super) fn forget(&mut self, id: u32) {
        if let Some(stream) = self.streams.remove(&id) {
            self.queue_shrank(stream.queue.len());
        }
        if self.streams.is_empty() && self.streams.capacity() > FEW {
            self.streams = ByStream::default();
        }
        self.leave_line(id);
    }

    /// So much of a queue was taken, or is not wanted any more.
    pub(super) fn queue_shrank(&mut self, bytes: usize) {
        if bytes > 0
            && let Some(share) = &mut self.share
        {
            share.release(bytes);
            self.http2.set_tight(share.is_tight());
        }
    }

    /// Ends the tunnel: its streams learn why.
    pub(super) fn end(&mut self, over: TunnelError) {
        self.over.get_or_insert(over);
        self.incoming.clear();
        self.drop_unread();
        self.streams.values_mut().for_each(Stream::wake);
        self.wake_driver();
    }

    /// Tells the peer why, as far as the socket takes it without waiting.
    pub(super) fn send_goaway(&mut self, over: &TunnelError, tcp: &TcpStream) {
        let told = match over {
            TunnelError::Record(error) => {
                self.records.sealer.fail(error).map_err(TunnelError::from)
            }
            TunnelError::Http2(failure) => {
                self.http2.go_away(failure.code, false);
                self.seal_control()
            }
            _ => self.seal_control(),
        };
        // There is nobody left to tell.
        let _ = told.and_then(|()| Ok(self.records.sealer.close()?)).and_then(|()| self.flush(tcp));
    }
}

/// A tunnel whose socket was full so recently is busy.
const BUSY: Duration = Duration::from_millis(20);
/// With so much unwritten, control frames are not sealed yet.
const MOST_SEALED: usize = 64 * 1024;
#[cfg(test)]
mod tests;
