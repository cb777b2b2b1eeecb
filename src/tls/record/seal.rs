//! Sending: RFC 8446 §5.1 and §5.2. Plaintext is laid down where its record will be, so that
//! it is sealed in place and written without a copy; small writes share one record.
//!
//! ```text
//! storage: [ written | sealed records … | header, plaintext so far (the open record) | room ]
//!                    ^sent              ^open                                        ^end
//! ```

use std::io::{self, IoSliceMut};

use super::{
    ALERT, APPLICATION_DATA, HANDSHAKE, HEADER, MAX_PLAINTEXT, RecordError, TAIL, key::SequencedKey,
};
use crate::tls::TrafficSecret;

/// A record on the wire, full.
const FULL: usize = HEADER + MAX_PLAINTEXT + TAIL;
/// The most records filled by one read.
const MOST_RECORDS: usize = 8;
/// The most that one [`Sealer::fill`] takes.
pub const MOST_READ: usize = MOST_RECORDS * MAX_PLAINTEXT;

/// The sending direction.
pub struct Sealer {
    key: SequencedKey,
    storage: Vec<u8>,
    sent: usize,
    open: Option<usize>,
    end: usize,
    /// Where the last KeyUpdate ends; 0 if it has been written. While it waits it serves as
    /// the answer to any number of requests.
    update: usize,
    closed: bool,
}

impl Sealer {
    pub(super) fn new(secret: TrafficSecret) -> Result<Self, RecordError> {
        let key = SequencedKey::new(secret)?;
        let storage = Vec::new();
        Ok(Self { key, storage, sent: 0, open: None, end: 0, update: 0, closed: false })
    }

    /// How many bytes wait to be written, overhead included.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.end - self.sent
    }

    /// Takes a buffer to lay records down in; a connection that sends nothing needs none.
    pub fn lend(&mut self, storage: impl FnOnce() -> Vec<u8>) {
        if self.storage.is_empty() && self.end == 0 {
            self.storage = storage();
        }
    }

    /// Gives the buffer back once all is written.
    pub fn give_back(&mut self) -> Option<Vec<u8>> {
        (self.end == 0 && !self.storage.is_empty()).then(|| std::mem::take(&mut self.storage))
    }

    /// Appends plaintext, opening and sealing records as needed; nothing follows an alert.
    ///
    /// # Errors
    /// If the key is used up.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), RecordError> {
        while !bytes.is_empty() && !self.closed {
            let room = self.opened(1)?;
            let part = room.min(bytes.len());
            self.ensure(self.end + part + TAIL);
            self.storage[self.end..self.end + part].copy_from_slice(&bytes[..part]);
            self.end += part;
            bytes = &bytes[part..];
        }
        Ok(())
    }

    /// Lets `read` put up to `most` bytes (at least one record's rest, at most
    /// [`MOST_READ`]) straight into place, behind a head of `H` bytes that `head` writes
    /// once it knows how many came. Nothing is kept if `read` yields 0 or fails.
    ///
    /// # Errors
    /// Those of `read`, and `InvalidData` if the key is used up.
    pub fn fill<const H: usize>(
        &mut self,
        most: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
        head: impl FnOnce(usize) -> [u8; H],
    ) -> io::Result<usize> {
        let used_up = |e: RecordError| io::Error::new(io::ErrorKind::InvalidData, e);
        let first = self.opened(H + 1).map_err(used_up)? - H;
        let most = most.min(first + (MOST_RECORDS - 1) * MAX_PLAINTEXT);
        let further = most.saturating_sub(first).div_ceil(MAX_PLAINTEXT);
        let begin = self.end + H;
        self.ensure(begin + first + TAIL + further * FULL);
        let got = {
            let (now, rest) = self.storage[begin..].split_at_mut(first.min(most));
            let mut places = [const { None::<IoSliceMut<'_>> }; MOST_RECORDS];
            places[0] = Some(IoSliceMut::new(now));
            let mut left = most - first.min(most);
            let rest = if further > 0 { &mut rest[TAIL..] } else { rest };
            for (place, record) in places[1..].iter_mut().zip(rest.chunks_mut(FULL)).take(further) {
                let take = left.min(MAX_PLAINTEXT);
                *place = Some(IoSliceMut::new(&mut record[HEADER..HEADER + take]));
                left -= take;
            }
            // An array of filled places only.
            let mut slices = places.map(|p| p.unwrap_or_else(|| IoSliceMut::new(&mut [])));
            read(&mut slices[..=further])
        };
        let got = match got {
            Ok(got) if got > 0 => got.min(most),
            other => {
                self.drop_empty();
                return other;
            }
        };
        let head = head(got);
        self.storage[self.end..begin].copy_from_slice(&head);
        let mut left = got;
        let mut room = first;
        self.end = begin;
        loop {
            let here = left.min(room);
            self.end += here;
            left -= here;
            if left == 0 {
                return Ok(got);
            }
            self.seal(APPLICATION_DATA).map_err(used_up)?;
            self.open = Some(self.end);
            (self.end, room) = (self.end + HEADER, MAX_PLAINTEXT);
        }
    }

    /// Seals the open record and shows what waits to be written.
    pub(super) fn pending(&mut self) -> Result<&[u8], RecordError> {
        self.seal(APPLICATION_DATA)?;
        Ok(&self.storage[self.sent..self.end])
    }

    /// So much of [`Sealer::pending`] has been written.
    pub fn written(&mut self, bytes: usize) {
        self.sent += bytes;
        debug_assert!(self.sent <= self.end);
        self.rewind();
    }

    fn rewind(&mut self) {
        if self.sent == self.end {
            (self.sent, self.end, self.update) = (0, 0, 0);
        }
    }

    /// Says close_notify, once; nothing can follow.
    ///
    /// # Errors
    /// If the key is used up.
    pub fn close(&mut self) -> Result<(), RecordError> {
        self.alert(1, 0)
    }

    /// Tells the peer why the connection ends (RFC 8446 §6.2).
    ///
    /// # Errors
    /// If the key is used up.
    pub fn fail(&mut self, error: &RecordError) -> Result<(), RecordError> {
        error.alert().map_or(Ok(()), |code| self.alert(2, code))
    }

    /// Ends the connection with a fatal alert of this code.
    ///
    /// # Errors
    /// If the key is used up.
    pub fn refuse(&mut self, code: u8) -> Result<(), RecordError> {
        self.alert(2, code)
    }

    fn alert(&mut self, level: u8, code: u8) -> Result<(), RecordError> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        self.message(&[level, code], ALERT)
    }

    pub(super) fn worn(&self, limit: u64) -> bool {
        self.key.sequence() >= limit && !self.closed
    }

    pub(super) fn rekeyed_unanswered(&self) -> bool {
        self.update > self.sent || self.closed
    }

    pub(super) fn key_update(&mut self, request: bool) -> Result<(), RecordError> {
        self.message(&[24, 0, 0, 1, u8::from(request)], HANDSHAKE)?;
        self.update = self.end;
        Ok(())
    }

    /// Not while anything waits to be written, nor after the end.
    pub(super) fn can_be_handed_on(&self) -> bool {
        self.waiting() == 0 && !self.closed
    }

    pub(super) fn into_secret(self) -> Option<TrafficSecret> {
        self.can_be_handed_on().then(|| self.key.into_secret())
    }

    /// Takes the next key.
    pub(super) fn rekey(&mut self) -> Result<(), RecordError> {
        self.key.update()
    }

    /// A record of its own for TLS itself.
    fn message(&mut self, body: &[u8], kind: u8) -> Result<(), RecordError> {
        self.seal(APPLICATION_DATA)?;
        self.open_record();
        self.ensure(self.end + body.len() + TAIL);
        self.storage[self.end..self.end + body.len()].copy_from_slice(body);
        self.end += body.len();
        self.seal(kind)
    }

    /// The room in the open record, opening a new one if there are not `least` bytes left.
    fn opened(&mut self, least: usize) -> Result<usize, RecordError> {
        if let Some(open) = self.open {
            let room = MAX_PLAINTEXT - (self.end - open - HEADER);
            if room >= least {
                return Ok(room);
            }
            self.seal(APPLICATION_DATA)?;
        }
        self.open_record();
        Ok(MAX_PLAINTEXT)
    }

    fn open_record(&mut self) {
        // Written bytes in front are dropped when that is cheap.
        if self.sent > 0 && self.waiting() < self.sent {
            self.storage.copy_within(self.sent..self.end, 0);
            self.update = self.update.saturating_sub(self.sent);
            (self.sent, self.end) = (0, self.end - self.sent);
        }
        self.open = Some(self.end);
        self.end += HEADER;
    }

    /// An open record without a byte in it is as if it had not been opened.
    fn drop_empty(&mut self) {
        if let Some(open) = self.open.filter(|open| open + HEADER == self.end) {
            (self.end, self.open) = (open, None);
            self.rewind();
        }
    }

    fn seal(&mut self, kind: u8) -> Result<(), RecordError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let (body, end) = (open + HEADER, self.end);
        self.ensure(end + TAIL);
        let length = u16::try_from(end - body + TAIL).map_err(|_| RecordError::Overflow)?;
        let [high, low] = length.to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        self.storage[open..body].copy_from_slice(&header);
        // If that fails nothing of it may be written.
        self.end = open;
        self.key.seal(header, &mut self.storage[body..end + TAIL], kind)?;
        self.end = end + TAIL;
        Ok(())
    }

    fn ensure(&mut self, length: usize) {
        if self.storage.len() < length {
            self.storage.resize(length.next_multiple_of(4096), 0);
        }
    }
}

#[cfg(test)]
impl Sealer {
    pub(super) fn seal_as(&mut self, kind: u8) {
        self.seal(kind).unwrap();
    }

    pub(super) fn empty_record(&mut self, kind: u8) {
        self.open_record();
        self.seal(kind).unwrap();
    }
}
