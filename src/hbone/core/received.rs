//! What comes through a tunnel: records opened in place, frames acted on, bytes written to the
//! applications they are for.

use std::{
    io::{self, IoSlice},
    iter,
    ops::Range,
    sync::atomic::Ordering::Relaxed,
    task::Context,
    time::Instant,
};

use super::{Core, Stream, TunnelError};
use crate::{
    hbone::{
        callers::Share,
        http2::{Code, Event},
        readers::TURN,
    },
    lifecycle::behind_others,
    relay::buffers,
    sys::{sockets, sockmap::must_wait},
    tls::record::{MAX_RECORD, Opened},
};

impl Core {
    /// Opens what came (sealed records, the last one perhaps not whole) and acts on it, as far as
    /// this turn goes; the rest is for the next one.
    pub(in crate::hbone) fn received(&mut self, bytes: &mut [u8]) -> Result<(), TunnelError> {
        self.heard = Instant::now();
        buffers::with_ranges(|plain| {
            let opened = self.open(bytes, plain);
            self.work += plain.len();
            // What was sound before an error still counts, and there is no next turn. Who leaves
            // no rests leaves none here: bulk is a few frames, however late in its caller's turn.
            let most = match opened {
                Ok(()) if self.narrow > 0 => self.most,
                Ok(()) => TURN,
                Err(_) => usize::MAX,
            };
            self.frames(bytes, plain, most)?;
            opened
        })
    }

    /// Begins a turn, with what the last one has left.
    pub(in crate::hbone) fn next_turn(&mut self) -> Result<(), TunnelError> {
        self.work = 0;
        self.narrow = self.narrow.saturating_sub(1);
        if self.rest.bytes.is_empty() {
            return Ok(());
        }
        let Rest { bytes, mut at } = std::mem::take(&mut self.rest);
        let mut batch = Batch { id: 0, slices: Vec::new() };
        let read = self.read(&bytes[at..], &mut batch, self.most);
        self.deliver(&mut batch);
        at += read?;
        let rest = if at < bytes.len() { Rest { bytes, at } } else { Rest::default() };
        self.leave_rest(rest);
        Ok(())
    }

    fn leave_rest(&mut self, rest: Rest) {
        if let Some(share) = &mut self.share {
            share.set_unread(rest.bytes.len());
        }
        if !rest.bytes.is_empty() {
            self.narrow = NARROW;
        }
        self.rest = rest;
    }

    /// How much of `room` the next read may fill: of a peer that says more at once than a turn
    /// does, or that has much unread elsewhere, one record. More would only lie here.
    pub(in crate::hbone) fn next_read(&self, room: usize) -> usize {
        if self.narrow > 0 || self.share.as_ref().is_some_and(Share::has_much_unread) {
            room.min(MAX_RECORD.max(self.partial.len() + 1))
        } else {
            room
        }
    }

    /// Whether this tunnel's turn has come; if not, it is woken.
    pub(in crate::hbone) fn may_read(&mut self, cx: &mut Context<'_>) -> bool {
        let may = self.share.as_mut().map_or(Some(TURN), |share| share.may_read(cx));
        self.most = may.unwrap_or(TURN);
        may.is_some()
    }

    /// The turn is over; there is more to read if it goes on `again`.
    pub(in crate::hbone) fn has_read(&mut self, again: bool, cx: &mut Context<'_>) {
        match &mut self.share {
            Some(share) => share.has_read(self.work, again, cx),
            None if again => behind_others(cx),
            None => {}
        }
    }

    /// There is nothing to read now.
    pub(in crate::hbone) fn reads_nothing(&mut self) {
        if let Some(share) = &mut self.share {
            share.reads_nothing();
        }
    }

    /// What came and was not acted on never will be.
    pub(super) fn drop_unread(&mut self) {
        (self.rest, self.partial) = (Rest::default(), Vec::new());
        if let Some(share) = &mut self.share {
            share.set_unread(0);
            share.reads_nothing();
        }
    }

    /// Whether this tunnel has had its turn, and others come first.
    pub(in crate::hbone) fn turn_is_over(&self) -> bool {
        self.work >= self.most || self.has_rest()
    }

    /// Whether something came that nothing was done about yet.
    pub(in crate::hbone) fn has_rest(&self) -> bool {
        !self.rest.bytes.is_empty()
    }

    #[cfg(test)]
    pub(in crate::hbone) fn unread(&self) -> usize {
        self.rest.bytes.capacity()
    }

    fn open(&mut self, bytes: &mut [u8], plain: &mut Vec<Range<usize>>) -> Result<(), TunnelError> {
        let mut at = 0;
        while let Some((used, opened)) = self.records.open(&mut bytes[at..])? {
            match opened {
                Opened::Data(range) if !range.is_empty() => {
                    plain.push(at + range.start..at + range.end);
                }
                Opened::Closed => self.peer_closed = true,
                _ => {}
            }
            at += used;
        }
        self.partial.clear();
        self.partial.extend_from_slice(&bytes[at..]);
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
        Ok(())
    }

    fn frames(
        &mut self,
        bytes: &[u8],
        plain: &[Range<usize>],
        most: usize,
    ) -> Result<(), TunnelError> {
        let mut batch = Batch { id: 0, slices: Vec::new() };
        for (n, range) in plain.iter().enumerate() {
            let read = self.read(&bytes[range.clone()], &mut batch, most);
            if !matches!(read, Ok(used) if used == range.len()) {
                self.deliver(&mut batch);
                let first = range.start + read?..range.end;
                let kept = || iter::once(&first).chain(&plain[n + 1..]).cloned();
                let mut rest = Vec::with_capacity(kept().map(|range| range.len()).sum());
                kept().for_each(|range| rest.extend_from_slice(&bytes[range]));
                self.leave_rest(Rest { bytes: rest, at: 0 });
                return Ok(());
            }
        }
        self.deliver(&mut batch);
        Ok(())
    }

    /// How much of `input` was acted on: less than all of it if the turn was over.
    fn read<'a>(
        &mut self,
        input: &'a [u8],
        batch: &mut Batch<'a>,
        most: usize,
    ) -> Result<usize, TunnelError> {
        let mut rest = input;
        while !rest.is_empty() && self.work < most {
            let (used, event) = self.http2.receive(rest, self.heard)?;
            self.work += 1;
            if let Some(event) = event {
                self.event(event, rest, batch)?;
            }
            rest = &rest[used..];
        }
        Ok(input.len() - rest.len())
    }

    fn event<'a>(
        &mut self,
        event: Event,
        input: &'a [u8],
        batch: &mut Batch<'a>,
    ) -> Result<(), TunnelError> {
        match event {
            Event::Data { id, range, end } => {
                if id != batch.id {
                    self.deliver(batch);
                    batch.id = id;
                }
                if !range.is_empty() {
                    batch.slices.push(IoSlice::new(&input[range]));
                }
                if end {
                    self.deliver(batch);
                    self.with_stream(id, |stream| stream.ended = true);
                }
            }
            Event::Request { id, request, end } => {
                self.streams.insert(id, Stream { ended: end, ..Stream::default() });
                self.incoming.push_back((id, request));
            }
            Event::Response { id, status, end } => self.with_stream(id, |stream| {
                stream.status = Some(status);
                stream.ended |= end;
            }),
            Event::Reset { id, code } => {
                self.deliver(batch);
                self.with_stream(id, |stream| {
                    // RFC 9113 §8.1: all was said, and no more is wanted. Without END_STREAM
                    // not all was said, whatever the code.
                    if code == Code::NO_ERROR && stream.ended {
                        stream.unwanted = true;
                    } else {
                        stream.reset = Some(code);
                    }
                    stream.unprocessed = code == Code::REFUSED_STREAM;
                });
            }
            Event::Window(Some(id)) => self.with_stream(id, |_| {}),
            Event::Window(None) | Event::Settings => {
                self.work += self.streams.len() / STREAMS_PER_WORK;
                self.streams.values_mut().for_each(Stream::wake);
            }
            Event::GoAway { last, code } => {
                // RFC 9113 §6.8: it speaks of streams that we opened, not of the peer's own.
                let ours = |id: u32| self.http2.opens(id);
                for (id, stream) in &mut self.streams {
                    if *id > last && ours(*id) {
                        stream.unprocessed = true;
                        stream.reset = Some(Code::REFUSED_STREAM);
                        stream.wake();
                    }
                }
                if code != Code::NO_ERROR {
                    return Err(TunnelError::GoAway(code));
                }
            }
            Event::Pong(_) => {}
        }
        Ok(())
    }

    fn with_stream(&mut self, id: u32, amend: impl FnOnce(&mut Stream)) {
        if let Some(stream) = self.streams.get_mut(&id) {
            amend(stream);
            stream.wake();
        }
    }

    /// Writes a stream's bytes to its application; what does not fit waits in the stream.
    fn deliver(&mut self, batch: &mut Batch<'_>) {
        if batch.slices.is_empty() {
            return;
        }
        let Some(stream) = self.streams.get_mut(&batch.id) else {
            batch.slices.clear();
            return;
        };
        let (mut taken, mut failed) = (0, false);
        if stream.queue.is_empty()
            && let Some(outlet) = &stream.outlet
        {
            for slices in batch.slices.chunks(MOST_SLICES) {
                self.work += WORK_OF_A_WRITE;
                let length: usize = slices.iter().map(|s| s.len()).sum();
                match outlet.socket.try_write_vectored(slices) {
                    Ok(n) => {
                        taken += n;
                        if n < length {
                            break;
                        }
                    }
                    Err(e)
                        if e.kind() == io::ErrorKind::WouldBlock
                            || must_wait(&outlet.socket, &e) =>
                    {
                        break;
                    }
                    Err(e) => {
                        stream.app_error = Some(e);
                        failed = true;
                        break;
                    }
                }
            }
            outlet.meter.down.fetch_add(taken as u64, Relaxed);
        }
        let left: usize = batch.slices.iter().map(|s| s.len()).sum();
        let left = left - taken;
        if failed {
            batch.slices.clear(); // there is nobody to take it
        } else if left > 0
            && let Some(share) = &mut self.share
        {
            let room = share.hold(left);
            self.http2.set_tight(share.is_tight());
            if !room {
                batch.slices.clear();
                stream.stopped = Some(TOO_MUCH_HELD);
                stream.reset = Some(Code::ENHANCE_YOUR_CALM);
                stream.wake();
                self.http2.reset(batch.id, Code::ENHANCE_YOUR_CALM);
                return;
            }
        }
        let mut skip = taken;
        for slice in batch.slices.drain(..) {
            let here = skip.min(slice.len());
            skip -= here;
            stream.queue.extend(&slice[here..]);
        }
        if failed || !stream.queue.is_empty() {
            stream.wake();
        }
        if taken > 0 {
            let socket = stream.outlet.as_ref().map(|outlet| &outlet.socket);
            let room = || socket.map_or(0, |socket| sockets::send_room(socket));
            self.http2.release(batch.id, taken, room);
        }
    }
}

/// Bytes of one stream that lie together in what was read.
struct Batch<'a> {
    id: u32,
    slices: Vec<IoSlice<'a>>,
}

/// What the last turn left: plaintext, of which so much was acted on.
#[derive(Debug, Default)]
pub(super) struct Rest {
    bytes: Vec<u8>,
    at: usize,
}

/// Why a stream is stopped whose bytes there is no room for.
const TOO_MUCH_HELD: &str = "this caller's stalled readers hold too much memory";
/// What one writev takes (IOV_MAX is 1024).
const MOST_SLICES: usize = 512;
/// After so many turns without a rest reads are large again.
const NARROW: u8 = 16;
/// A write to an application's socket counts as so many.
const WORK_OF_A_WRITE: usize = 8;
/// So many streams that are woken count as one.
const STREAMS_PER_WORK: usize = 8;
