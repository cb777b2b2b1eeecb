//! Bytes from one side to the other and back, until both sides have ended.
//!
//! A [`Source`] yields chunks and a [`Sink`] takes them; TCP sockets ([`tcp`]) and tunnel
//! streams ([`crate::tunnel::stream`]) are both. An end of file is passed on as a half-close
//! and the other direction runs on; a reset of either side ends both.

pub mod tcp;

use std::{
    future::Future,
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;

/// Where bytes come from.
pub trait Source: Send {
    /// The next bytes; `None` at the end of the stream. Cancel safe.
    fn chunk(&mut self) -> impl Future<Output = io::Result<Option<Bytes>>> + Send;
}

/// Where bytes go.
pub trait Sink: Send {
    /// Hands all of `bytes` on, waiting for room. Not cancel safe.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = io::Result<()>> + Send;
    /// Says that nothing more comes (FIN, END_STREAM).
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Waits until the other end resets the connection. Cancel safe.
    fn reset(&mut self) -> impl Future<Output = io::Error> + Send;
    /// Ends the connection abruptly (RST, RST_STREAM CANCEL).
    fn abort(&mut self);
}

/// How a relay ended when neither side failed to be carried.
#[derive(Debug)]
pub enum End {
    /// Both directions ended in order.
    Completed,
    /// The application's side was reset.
    AppReset(io::Error),
    /// The mesh's (or plain upstream's) side was reset.
    MeshReset(io::Error),
    /// Nothing moved for this long.
    Idle(Duration),
}

/// Carries bytes both ways: `up` counts from the application to the mesh, `down` back.
/// On anything but [`End::Completed`] both sides have been reset.
///
/// # Cancel safety
/// Dropping the future drops what was in flight; the caller then drops both sides.
pub async fn run<A, B, C, D>(
    (mut app_out, mut app_in): (A, B),
    (mut mesh_out, mut mesh_in): (C, D),
    (up, down): (&AtomicU64, &AtomicU64),
    idle: Option<Duration>,
) -> End
where
    A: Source,
    B: Sink,
    C: Source,
    D: Sink,
{
    let ended = {
        let upward = pump(&mut app_out, &mut mesh_in, up);
        let downward = pump(&mut mesh_out, &mut app_in, down);
        let both = async {
            tokio::try_join!(
                async { upward.await.map_err(|e| e.seen_from(End::AppReset, End::MeshReset)) },
                async { downward.await.map_err(|e| e.seen_from(End::MeshReset, End::AppReset)) },
            )
        };
        match idle {
            None => both.await,
            Some(limit) => tokio::select! {
                ended = both => ended,
                () = quiet(up, down, limit) => Err(End::Idle(limit)),
            },
        }
    };
    match ended {
        Ok(_) => End::Completed,
        Err(end) => {
            app_in.abort();
            mesh_in.abort();
            end
        }
    }
}

/// Which side of one direction failed.
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

impl Broken {
    fn seen_from(self, source: fn(io::Error) -> End, sink: fn(io::Error) -> End) -> End {
        match self {
            Self::Source(e) => source(e),
            Self::Sink(e) => sink(e),
        }
    }
}

/// One direction: until the source ends, then the half-close is passed on.
async fn pump(
    source: &mut impl Source,
    sink: &mut impl Sink,
    count: &AtomicU64,
) -> Result<(), Broken> {
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = source.chunk() => chunk.map_err(Broken::Source)?,
            error = sink.reset() => return Err(Broken::Sink(error)),
        };
        let Some(bytes) = chunk else {
            return sink.finish().await.map_err(Broken::Sink);
        };
        let len = bytes.len() as u64;
        sink.write(bytes).await.map_err(Broken::Sink)?;
        count.fetch_add(len, Relaxed);
    }
}

async fn quiet(up: &AtomicU64, down: &AtomicU64, limit: Duration) {
    let moved = || up.load(Relaxed).wrapping_add(down.load(Relaxed));
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

#[cfg(test)]
mod tests;
