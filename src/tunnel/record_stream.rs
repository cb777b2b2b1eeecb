//! A session as a byte stream: our record layer under anything that reads and writes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::record::{Opened, RecordError, Records};
use crate::tls::Session;

/// How much is read from the socket at once: grows while reads are full.
const READ: std::ops::RangeInclusive<usize> = 8 * 1024..=256 * 1024;
/// What may wait to be written before a writer must wait.
const WAITING: usize = 256 * 1024;

/// A TLS connection. Reading yields an error, not an end, where close_notify is missing.
pub(super) struct RecordStream {
    tcp: TcpStream,
    records: Records,
    input: Vec<u8>,
    /// In `input`: what is open and not read yet, and where the sealed records go on.
    plain: std::ops::Range<usize>,
    sealed: std::ops::Range<usize>,
    closed: bool,
    size: usize,
}

impl RecordStream {
    pub(super) fn new(session: Session) -> Result<Self, RecordError> {
        let records = Records::new(session.keys)?;
        let sealed = 0..session.early.len();
        let (input, plain) = (session.early, 0..0);
        Ok(Self {
            tcp: session.tcp,
            records,
            input,
            plain,
            sealed,
            closed: false,
            size: *READ.start(),
        })
    }

    /// Opens records until one holds data. `false`: more must be read.
    fn open(&mut self) -> Result<bool, RecordError> {
        loop {
            let input = &mut self.input[self.sealed.clone()];
            let Some((used, opened)) = self.records.open(input)? else { return Ok(false) };
            let start = self.sealed.start;
            self.sealed.start += used;
            match opened {
                Opened::Data(range) if !range.is_empty() => {
                    self.plain = start + range.start..start + range.end;
                    return Ok(true);
                }
                Opened::Closed => {
                    self.closed = true;
                    return Ok(true);
                }
                _ => {}
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.copy_within(self.sealed.clone(), 0);
        self.sealed = 0..self.sealed.len();
        loop {
            if self.sealed.is_empty() && self.size == *READ.start() && self.input.len() > self.size
            {
                self.input = Vec::new(); // a quiet connection holds no large buffer
            }
            ready!(self.tcp.poll_read_ready(cx))?;
            if self.input.len() < self.sealed.end + self.size {
                self.input.resize(self.sealed.end + self.size, 0);
            }
            match self.tcp.try_read(&mut self.input[self.sealed.end..]) {
                Ok(0) => {
                    let truncated = RecordError::Truncated;
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        truncated,
                    )));
                }
                Ok(n) => {
                    self.size = match n {
                        n if n >= self.size => (self.size * 4).min(*READ.end()),
                        n if n < self.size / 8 => (self.size / 2).max(*READ.start()),
                        _ => self.size,
                    };
                    self.sealed.end += n;
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// Writes out until no more than `leave` bytes wait.
    fn poll_drain(&mut self, cx: &mut Context<'_>, leave: usize) -> Poll<io::Result<()>> {
        while self.records.sealer.waiting() > leave {
            let pending = self.records.pending().map_err(into_io)?;
            match self.tcp.try_write(pending) {
                Ok(n) => self.records.sealer.written(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_write_ready(cx))?;
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        if self.records.sealer.waiting() == 0 {
            self.records.sealer.give_back();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for RecordStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        loop {
            if !me.plain.is_empty() {
                let n = me.plain.len().min(buf.remaining());
                buf.put_slice(&me.input[me.plain.start..me.plain.start + n]);
                me.plain.start += n;
                return Poll::Ready(Ok(()));
            }
            if me.closed {
                return Poll::Ready(Ok(()));
            }
            match me.open() {
                Ok(true) => {}
                Ok(false) => ready!(me.poll_fill(cx))?,
                Err(error) => {
                    let _ = me.records.sealer.fail(&error);
                    let _ = me.poll_drain(cx, 0);
                    return Poll::Ready(Err(into_io(error)));
                }
            }
        }
    }
}

impl AsyncWrite for RecordStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx, WAITING))?;
        self.records.sealer.append(bytes).map_err(into_io)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx, 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.records.sealer.close().map_err(into_io)?;
        ready!(self.poll_drain(cx, 0))?;
        let _ = socket2::SockRef::from(&self.tcp).shutdown(std::net::Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}

fn into_io(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
