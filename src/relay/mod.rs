//! Bytes from an application to the far side and back, until both have ended.
//!
//! The application is a TCP socket ([`App`]); the far side is a tunnel stream
//! ([`crate::tunnel::stream`]) or another TCP socket ([`tcp`]): a [`Far`]. An end of file is
//! passed on as a half-close and the other direction runs on; a reset of either side ends both.
//! One future carries both directions, and owns no buffer while nothing moves.

mod app;
mod scratch;
mod short_way;
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

use tokio::time::Sleep;

pub use app::App;
pub use scratch::with_scratch;
pub use short_way::ShortWay;

use crate::observe::conn::Meter;

/// The side of a relay that is not the application.
pub trait Far: Send {
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

    /// Ends the far side abruptly (RST, RST_STREAM CANCEL).
    fn abort(&mut self);

    /// Says in order that nothing more comes, as far as that takes no waiting.
    fn part(&mut self) {
        self.abort();
    }
}

/// Which side failed.
#[derive(Debug)]
pub enum Broken {
    /// The application's socket.
    App(io::Error),
    /// The far side.
    Far(io::Error),
}

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both directions ended in order.
    Completed,
    /// The application's side was reset.
    AppReset(io::Error),
    /// The far side was reset.
    FarReset(io::Error),
    /// Nothing moved for this long.
    Idle(Duration),
    /// One direction had ended for this long and the other had not.
    HalfClosed(Duration),
}

/// Which directions have ended.
#[derive(Default)]
struct Ways {
    up: bool,
    down: bool,
}

impl Ways {
    /// Moves what can be moved, until both have ended.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        far: &mut dyn Far,
        meter: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>> {
        if !self.down && far.poll_down(cx, app, meter)?.is_ready() {
            app.finish().map_err(Broken::App)?;
            self.down = true;
        }
        if !self.up && far.poll_up(cx, app, meter)?.is_ready() {
            app.half_closed();
            self.up = true;
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
            return Poll::Ready(Err(Broken::Far(error)));
        }
        Poll::Pending
    }
}

/// Carries bytes both ways. On anything but [`End::Completed`] both sides have been reset.
///
/// # Cancel safety
/// Dropping the future drops what was in flight; dropping both sides then resets them.
pub async fn run(
    app: &mut App,
    far: &mut dyn Far,
    meter: &Arc<Meter>,
    idle: Option<Duration>,
) -> End {
    let mut ways = Ways::default();
    let carry = poll_fn(|cx| ways.poll(cx, app, far, meter));
    let ended = match idle {
        None => carry.await,
        Some(limit) => tokio::select! {
            ended = carry => ended,
            // In a box: a timer is large, and few configurations want one.
            () = Box::pin(quiet(meter, limit)) => {
                app.abort();
                far.abort();
                return End::Idle(limit);
            }
        },
    };
    end(ended, app, far)
}

/// The same, but when one direction has ended the other may go on for `half_closed` only: then
/// both sides are told in order that nothing more comes.
///
/// # Cancel safety
/// As [`run`].
pub async fn run_closing(
    app: &mut App,
    far: &mut dyn Far,
    meter: &Arc<Meter>,
    half_closed: Duration,
) -> End {
    let mut ways = Ways::default();
    let mut late: Option<Pin<Box<Sleep>>> = None;
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = ways.poll(cx, app, far, meter) {
            return Poll::Ready(Some(ended));
        }
        if ways.up || ways.down {
            let late = late.get_or_insert_with(|| Box::pin(tokio::time::sleep(half_closed)));
            return late.as_mut().poll(cx).map(|()| None);
        }
        Poll::Pending
    })
    .await;
    match ended {
        Some(ended) => end(ended, app, far),
        None => {
            // What is on its way still arrives.
            let _ = app.finish();
            far.part();
            End::HalfClosed(half_closed)
        }
    }
}

fn end(ended: Result<(), Broken>, app: &mut App, far: &mut dyn Far) -> End {
    let end = match ended {
        Ok(()) => return End::Completed,
        Err(Broken::App(e)) => End::AppReset(e),
        Err(Broken::Far(e)) => End::FarReset(e),
    };
    app.abort();
    far.abort();
    end
}

async fn quiet(meter: &Meter, limit: Duration) {
    let moved = || meter.up.load(Relaxed).wrapping_add(meter.down.load(Relaxed));
    let mut last = moved();
    loop {
        tokio::time::sleep(limit).await;
        let now = moved();
        if now == last {
            return;
        }
        last = now;
    }
}
