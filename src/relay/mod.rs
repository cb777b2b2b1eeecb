//! Bytes from an application to the far side and back, until both have ended.
//!
//! The application is a TCP socket ([`App`]), which is reset if it is dropped before both
//! directions have ended; the far side is a tunnel stream
//! ([`crate::hbone::stream`]) or another TCP socket ([`tcp`]): a [`Remote`]. An end of file is
//! passed on as a half-close and the other direction runs on; a reset of either side ends both. An
//! application on this host may be reached past TCP, by a [`SockmapRedirect`].
//! One future carries both directions, and owns no buffer while nothing moves.

mod app;
pub(crate) mod buffers;
mod kernel;
mod last_words;
mod scratch;
mod secured;
mod sockmap_redirect;
pub mod tcp;
#[cfg(test)]
mod tests;

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

pub use app::App;
pub use scratch::with_scratch;
pub use secured::SecuredRemote;
pub use sockmap_redirect::SockmapRedirect;

use self::last_words::LastWords;
use crate::{net::CloseReason, observe::conn::Meter};

/// The side of a relay that is not the application.
pub trait Remote: Send {
    /// Moves what the application says, until it has ended and the far side knows it.
    fn poll_up(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        meter: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>>;

    /// Moves what the far side says, until it has ended and all is with the application.
    fn poll_down(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        meter: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>>;

    /// Waits for a reset by the far side, where `poll_up` and `poll_down` would not tell.
    fn poll_reset(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    /// Ends the far side abruptly (RST, RST_STREAM CONNECT_ERROR).
    fn abort(&mut self);

    /// How many bytes the kernel still holds for the far side.
    fn unsent(&self) -> usize {
        0
    }
}

/// Which side failed.
#[derive(Debug)]
pub enum Broken {
    /// The application's socket.
    App(io::Error),
    /// The far side.
    Remote(io::Error),
}

/// Inside an error of the far side: it took back what it had admitted.
#[derive(Debug, thiserror::Error)]
#[error("the remote side no longer allows this connection: its policy or its trust changed")]
pub struct Withdrawn;

impl Withdrawn {
    /// Whether this is what the far side has said.
    #[must_use]
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both directions ended in order.
    Completed,
    /// The application's side was reset.
    AppReset(io::Error),
    /// The far side was reset.
    RemoteReset(io::Error),
    /// Nothing moved for this long.
    Idle(Duration),
    /// One direction had ended, the other had not, and nothing moved for this long.
    HalfClosed(Duration),
}

impl End {
    /// Whether the far side ended without saying so, as TLS without close_notify.
    #[must_use]
    pub fn is_truncation(&self) -> bool {
        matches!(self, Self::RemoteReset(e) if e.kind() == io::ErrorKind::UnexpectedEof)
    }

    /// What the record says of it; `app` and `remote` are what people call the two sides.
    #[must_use]
    pub fn outcome(self, app: &str, remote: &str) -> (CloseReason, Option<String>) {
        match self {
            Self::Completed => (CloseReason::Completed, None),
            Self::AppReset(e) => (CloseReason::AppReset, Some(format!("{app}: {e}"))),
            Self::RemoteReset(e) if e.kind() == io::ErrorKind::QuotaExceeded => {
                (CloseReason::Overloaded, Some(e.to_string()))
            }
            Self::RemoteReset(e) if Withdrawn::is(&e) => {
                (CloseReason::PeerDenied, Some(e.to_string()))
            }
            Self::RemoteReset(e) => (CloseReason::PeerReset, Some(format!("{remote}: {e}"))),
            Self::Idle(limit) => (CloseReason::IdleTimeout, Some(format!("idle for {limit:?}"))),
            Self::HalfClosed(limit) => {
                let why = format!("half-closed for {limit:?}, but the other side did not finish");
                (CloseReason::HalfCloseTimeout, Some(why))
            }
        }
    }
}

/// Which directions have ended.
#[derive(Default)]
struct Ways {
    up: bool,
    down: bool,
    /// The far side takes nothing more.
    last_words: Option<Box<LastWords>>,
}

impl Ways {
    /// Moves what can be moved, until both have ended.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        far: &mut dyn Remote,
        meter: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>> {
        if let Some(last_words) = &mut self.last_words {
            let moved = far.poll_down(cx, app, meter);
            return poll_last_words(last_words, cx, moved);
        }
        if !self.down && far.poll_down(cx, app, meter)?.is_ready() {
            app.finish().map_err(Broken::App)?;
            self.down = true;
        }
        if !self.up {
            match far.poll_up(cx, app, meter) {
                Poll::Ready(Ok(())) => {
                    app.leave_redirect();
                    self.up = true;
                }
                Poll::Ready(Err(Broken::Remote(error))) if !self.down => {
                    let last_words = LastWords::of(error).map_err(Broken::Remote)?;
                    let last_words = self.last_words.insert(Box::new(last_words));
                    let moved = far.poll_down(cx, app, meter);
                    return poll_last_words(last_words, cx, moved);
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => {}
            }
        }
        if self.up && self.down {
            return Poll::Ready(Ok(()));
        }
        // Reads tell of a reset, but not behind an end of file, nor while nobody reads because
        // the other side takes nothing.
        if let Poll::Ready(error) = app.poll_reset(cx) {
            return Poll::Ready(Err(Broken::App(error)));
        }
        if let Poll::Ready(error) = far.poll_reset(cx) {
            return Poll::Ready(Err(Broken::Remote(error)));
        }
        Poll::Pending
    }
}

/// Of a far side that is read to its end, what ended the relay.
fn poll_last_words(
    last_words: &mut LastWords,
    cx: &mut Context<'_>,
    moved: Poll<Result<(), Broken>>,
) -> Poll<Result<(), Broken>> {
    let said = match moved {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(Broken::App(error))) => return Poll::Ready(Err(Broken::App(error))),
        Poll::Ready(Err(Broken::Remote(error))) => Poll::Ready(Some(error)),
        Poll::Ready(Ok(())) => Poll::Ready(None),
    };
    last_words.poll(cx, said).map(|error| Err(Broken::Remote(error)))
}

/// How long a relay may be silent: no byte moved either way, and none left the kernel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Whatever is open; `None` for ever.
    pub idle: Option<Duration>,
    /// Once one direction has ended and the other has not; `None` for ever.
    pub half_closed: Option<Duration>,
}

/// Carries bytes both ways. On anything but [`End::Completed`] both sides have been reset.
///
/// # Cancel safety
/// Dropping the future drops what was in flight and resets both sides.
pub async fn run(app: &mut App, far: &mut dyn Remote, meter: &Arc<Meter>, limits: &Limits) -> End {
    let mut ways = Ways::default();
    let both = Both { app, far, whole: false };
    // In boxes: a timer is large, few configurations want an idle limit, and few connections are
    // half closed.
    let mut quiet = limits.idle.map(|limit| Box::pin(Quiet::new(limit)));
    let mut late: Option<Pin<Box<Late>>> = None;
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = ways.poll(cx, both.app, both.far, meter) {
            return Poll::Ready(Ok(ended));
        }
        if let Some(quiet) = &mut quiet
            && quiet.poll(cx, || both.seen(meter)).is_ready()
        {
            return Poll::Ready(Err(End::Idle(quiet.limit)));
        }
        if let (Some(limit), true) = (limits.half_closed, ways.up || ways.down) {
            let late = late.get_or_insert_with(|| Box::pin(Late::new(limit)));
            if late.poll(cx, || both.seen(meter)).is_ready() {
                return Poll::Ready(Err(End::HalfClosed(limit)));
            }
        }
        Poll::Pending
    })
    .await;
    match ended {
        Ok(ended) => both.end(ended),
        Err(limit) => limit,
    }
}

/// Both sides, which end in a reset unless all has arrived: what was cut must not look complete,
/// whoever cut it and in whichever direction it had already ended.
struct Both<'a> {
    app: &'a mut App,
    far: &'a mut dyn Remote,
    whole: bool,
}

impl Both<'_> {
    fn end(mut self, ended: Result<(), Broken>) -> End {
        match ended {
            Ok(()) => {
                self.whole = true;
                End::Completed
            }
            Err(Broken::App(e)) => End::AppReset(e),
            Err(Broken::Remote(e)) => End::RemoteReset(e),
        }
    }

    /// What changes when something moves: what was carried, and what the kernel still has to send.
    fn seen(&self, meter: &Meter) -> Seen {
        let moved = meter.up.load(Relaxed).wrapping_add(meter.down.load(Relaxed));
        Seen { moved, unsent: (self.app.unsent(), self.far.unsent()) }
    }
}

impl Drop for Both<'_> {
    fn drop(&mut self) {
        if !self.whole {
            self.app.abort();
            self.far.abort();
        }
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
struct Seen {
    moved: u64,
    unsent: (usize, usize),
}

/// When a half-closed connection has been silent for too long.
struct Late {
    limit: Duration,
    since: Instant,
    last: Option<Seen>,
    tick: Pin<Box<Sleep>>,
}

/// A reset throws away what the kernel still holds. That has at least so long, whatever the limit.
const TO_LEAVE: Duration = Duration::from_secs(1);

impl Late {
    fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), last: None, tick: Box::pin(sleep(Duration::ZERO)) }
    }

    fn poll(&mut self, cx: &mut Context<'_>, seen: impl Fn() -> Seen) -> Poll<()> {
        loop {
            let now = seen();
            if self.last != Some(now) {
                (self.last, self.since) = (Some(now), Instant::now());
            }
            let nothing_waits = now.unsent == (0, 0);
            let limit = if nothing_waits { self.limit } else { self.limit.max(TO_LEAVE) };
            let left = limit.saturating_sub(self.since.elapsed());
            if left.is_zero() {
                return Poll::Ready(());
            }
            // What the kernel sends wakes nobody: it is looked at now and then.
            let now_and_then = (limit / 4).max(Duration::from_millis(10));
            let next = Instant::now() + left.min(now_and_then);
            if self.tick.deadline() > next || self.tick.is_elapsed() {
                self.tick.as_mut().reset(next);
            }
            if self.tick.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// When a connection has been silent for its limit, or a quarter more. Looked at by the clock
/// alone, so that a connection that flows pays nothing for it.
struct Quiet {
    limit: Duration,
    last: Option<Seen>,
    /// At how many looks one after the other nothing had moved.
    still: u32,
    tick: Pin<Box<Sleep>>,
}

/// How many looks an idle limit has.
const LOOKS: u32 = 4;

impl Quiet {
    fn new(limit: Duration) -> Self {
        Self { limit, last: None, still: 0, tick: Box::pin(sleep(Duration::ZERO)) }
    }

    fn poll(&mut self, cx: &mut Context<'_>, seen: impl Fn() -> Seen) -> Poll<()> {
        while self.tick.as_mut().poll(cx).is_ready() {
            let now = seen();
            self.still = if self.last.replace(now) == Some(now) { self.still + 1 } else { 0 };
            if self.still == LOOKS {
                return Poll::Ready(());
            }
            self.tick.as_mut().reset(Instant::now() + self.limit / LOOKS);
        }
        Poll::Pending
    }
}
