//! The records of a TLS peer, of either version: sealed where they were read, opened where they
//! lie.

use std::{
    io::{self, IoSlice},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::net::TcpStream;

use crate::{
    observe::conn::Meter,
    relay::{App, Broken, buffers, with_scratch},
    tls::{
        Tls12,
        record::{MOST_READ, Opened, Records},
    },
};

/// The most records of one read that are handed on in one write.
const MOST_PIECES: usize = 24;

pub(super) enum Machine {
    Tls13(Box<Records>),
    Tls12 { tls: Box<dyn Tls12>, out: Vec<u8>, sent: usize },
}

pub(super) fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Machine {
    pub(super) fn waiting(&self) -> usize {
        match self {
            Self::Tls13(records) => records.sealer.waiting(),
            Self::Tls12 { out, sent, .. } => out.len() - sent,
        }
    }

    /// Writes what is sealed until the socket is full.
    pub(super) fn flush(&mut self, tcp: &TcpStream) -> io::Result<bool> {
        while self.waiting() > 0 {
            let wrote = match self {
                Self::Tls13(records) => tcp.try_write(records.pending().map_err(broken)?),
                Self::Tls12 { out, sent, .. } => tcp.try_write(&out[*sent..]),
            };
            match wrote {
                Ok(n) => self.written(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        if let Self::Tls13(records) = self
            && let Some(storage) = records.sealer.give_back()
        {
            buffers::give(storage);
        }
        Ok(true)
    }

    pub(super) fn written(&mut self, bytes: usize) {
        match self {
            Self::Tls13(records) => records.sealer.written(bytes),
            Self::Tls12 { out, sent, .. } => {
                *sent += bytes;
                if *sent == out.len() {
                    (*out, *sent) = (Vec::new(), 0);
                }
            }
        }
    }

    /// Reads what the application says and seals it; 0 at its end.
    pub(super) fn fill(&mut self, app: &mut App) -> io::Result<usize> {
        match self {
            Self::Tls13(records) => {
                records.sealer.lend(buffers::take);
                let read = |room: &mut [io::IoSliceMut<'_>]| app.socket().try_read_vectored(room);
                let n = records.sealer.fill(MOST_READ, read, |_| [])?;
                if n > 0 && n < MOST_READ {
                    app.drained();
                }
                Ok(n)
            }
            Self::Tls12 { tls, out, .. } => with_scratch(|buffer| {
                let n = app.socket().try_read(&mut buffer[..MOST_READ])?;
                if n > 0 {
                    tls.seal(&buffer[..n], out).map_err(broken)?;
                }
                Ok(n)
            }),
        }
    }

    pub(super) fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Tls13(records) => records.sealer.close().map_err(broken),
            Self::Tls12 { tls, out, .. } => tls.close(out).map_err(broken),
        }
    }
}

/// Where opened bytes go: to the application, as far as it takes them, else they are held.
pub(super) struct Sink<'a> {
    pub(super) app: Option<&'a mut App>,
    pub(super) held: &'a mut Vec<u8>,
    pub(super) meter: Option<&'a Arc<Meter>>,
}

impl Sink<'_> {
    fn put(&mut self, pieces: &[IoSlice<'_>]) -> Result<(), Broken> {
        let mut taken = 0;
        if let (Some(app), true) = (&self.app, self.held.is_empty()) {
            taken = match app.socket().try_write_vectored(pieces) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                Err(e) => return Err(Broken::App(e)),
            };
        }
        if let Some(meter) = self.meter {
            meter.down.fetch_add(taken as u64, Relaxed);
        }
        for piece in pieces {
            let skip = taken.min(piece.len());
            taken -= skip;
            self.held.extend_from_slice(&piece[skip..]);
        }
        Ok(())
    }
}

/// Opens the whole records of `input`: how many bytes that were, and whether the peer has ended.
pub(super) fn open(
    records: &mut Machine,
    input: &mut [u8],
    sink: &mut Sink<'_>,
) -> Result<(usize, bool), Broken> {
    match records {
        Machine::Tls13(records) => open13(records, input, sink),
        Machine::Tls12 { tls, .. } => {
            let mut used = 0;
            loop {
                let mut plain = Vec::new();
                let (more, ended) = tls
                    .open(&mut input[used..], &mut plain, MOST_READ)
                    .map_err(|e| Broken::Remote(broken(e)))?;
                used += more;
                if !plain.is_empty() {
                    sink.put(&[IoSlice::new(&plain)])?;
                }
                if ended || plain.is_empty() {
                    return Ok((used, ended));
                }
            }
        }
    }
}

fn open13(
    records: &mut Records,
    input: &mut [u8],
    sink: &mut Sink<'_>,
) -> Result<(usize, bool), Broken> {
    buffers::with_ranges(|pieces| {
        let (mut used, mut ended) = (0, false);
        while !ended {
            let opened = records.open(&mut input[used..]).map_err(|e| Broken::Remote(broken(e)))?;
            let Some((length, opened)) = opened else { break };
            match opened {
                Opened::Data(at) if !at.is_empty() => {
                    pieces.push(used + at.start..used + at.end);
                }
                Opened::Closed => ended = true,
                _ => {}
            }
            used += length;
        }
        for some in pieces.chunks(MOST_PIECES) {
            let mut slices = [IoSlice::new(&[]); MOST_PIECES];
            for (slice, at) in slices.iter_mut().zip(some) {
                *slice = IoSlice::new(&input[at.clone()]);
            }
            sink.put(&slices[..some.len()])?;
        }
        Ok((used, ended))
    })
}
