//! What a far side said before it closed its socket, and nobody has read yet: the rest of a response,
//! or the TLS alert that tells why. A write meets the closed socket first if the two cross.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// How long it is read, if the application does not take all of it.
const LONGEST: Duration = Duration::from_secs(1);

/// The far side takes nothing more, and is read to its end.
pub(super) struct LastWords {
    error: io::Error,
    over: Pin<Box<Sleep>>,
}

impl LastWords {
    /// Of an error of writing to the far side.
    ///
    /// # Errors
    /// That error, if its socket is not closed.
    pub(super) fn of(error: io::Error) -> Result<Self, io::Error> {
        match error.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => {
                Ok(Self { error, over: Box::pin(sleep(LONGEST)) })
            }
            _ => Err(error),
        }
    }

    /// What ended the connection, once nothing more is read: what the far side `said` of it, or the
    /// error of the write.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        said: Poll<Option<io::Error>>,
    ) -> Poll<io::Error> {
        match said {
            Poll::Ready(Some(said)) if said.get_ref().is_some() => return Poll::Ready(said),
            Poll::Ready(_) => {}
            Poll::Pending if self.over.as_mut().poll(cx).is_ready() => {}
            Poll::Pending => return Poll::Pending,
        }
        let reset = io::ErrorKind::ConnectionReset.into();
        Poll::Ready(std::mem::replace(&mut self.error, reset))
    }
}
