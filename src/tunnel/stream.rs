//! The two halves of one CONNECT stream as [`Source`] and [`Sink`].
//!
//! Bytes are handed on without a copy. Flow-control credit is given back only when the next
//! chunk is asked for, that is when the last one has been written to the application: a slow
//! application holds back its own sender and nobody else.

use std::{future::poll_fn, io};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use super::client::StreamSlot;
use crate::relay::{Sink, Source};

/// What comes out of the tunnel.
#[derive(Debug)]
pub struct TunnelSource {
    stream: RecvStream,
    owed: usize,
    _slot: Option<StreamSlot>,
}

/// What goes into the tunnel.
#[derive(Debug)]
pub struct TunnelSink {
    stream: SendStream<Bytes>,
}

impl TunnelSource {
    pub(super) fn new(stream: RecvStream, slot: Option<StreamSlot>) -> Self {
        Self { stream, owed: 0, _slot: slot }
    }
}

impl TunnelSink {
    pub(super) fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream }
    }
}

impl Source for TunnelSource {
    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.owed > 0 {
            // Fails only when the stream is over, which the next read tells.
            let _ = self.stream.flow_control().release_capacity(self.owed);
            self.owed = 0;
        }
        loop {
            match poll_fn(|cx| self.stream.poll_data(cx)).await {
                None => return Ok(None),
                // An empty DATA frame carries nothing, at most an END_STREAM.
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    self.owed = bytes.len();
                    return Ok(Some(bytes));
                }
                // RFC 9113 §8.1: after a whole response a server may say NO_ERROR.
                Some(Err(e)) if e.is_reset() && e.reason() == Some(Reason::NO_ERROR) => {
                    return Ok(None);
                }
                Some(Err(e)) => return Err(into_io(e)),
            }
        }
    }
}

impl Sink for TunnelSink {
    async fn write(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.reserve_capacity(bytes.len());
            let room = match self.stream.capacity() {
                0 => match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
                    Some(granted) => granted.map_err(into_io)?,
                    None => return Err(io::ErrorKind::ConnectionReset.into()),
                },
                room => room,
            };
            if room > 0 {
                let part = bytes.split_to(room.min(bytes.len()));
                self.stream.send_data(part, false).map_err(into_io)?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.stream.send_data(Bytes::new(), true).map_err(into_io)
    }

    async fn reset(&mut self) -> io::Error {
        match poll_fn(|cx| self.stream.poll_reset(cx)).await {
            // The peer has all it wants and will read no more: not an error by itself
            // (RFC 9113 §8.1); its own half ends in order on the other path.
            Ok(Reason::NO_ERROR) => std::future::pending().await,
            Ok(reason) => io::Error::new(
                io::ErrorKind::ConnectionReset,
                format!("the tunnel stream was reset with {reason:?}"),
            ),
            Err(e) => into_io(e),
        }
    }

    fn abort(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
