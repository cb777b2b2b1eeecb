//! adit's end of a TLS connection without HTTP/2 above it: a socket and its records.

use std::io;

use adit::tls::{
    Session,
    record::{Opened, RecordError, Records},
};
use rand::Rng;
use tokio::{io::Interest, net::TcpStream};

use crate::pattern::Pattern;

/// What one end sends, and how.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) sends: Pattern,
    pub(crate) expects: Pattern,
    /// How many bytes are sent before close_notify.
    pub(crate) bytes: usize,
    /// A key update after so many writes; every other one asks for the peer's.
    pub(crate) rekey: usize,
}

/// How the connection ended, and what it saw.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Seen {
    pub(crate) received: usize,
    pub(crate) key_updates: usize,
    pub(crate) requested: usize,
}

/// Our end.
pub(crate) struct Ours {
    pub(crate) tcp: TcpStream,
    pub(crate) records: Records,
    input: Vec<u8>,
    closed: bool,
    pub(crate) seen: Seen,
}

impl Ours {
    pub(crate) fn new(session: Session) -> Self {
        let records = Records::new(session.keys).expect("keys");
        let (input, closed) = (session.early, false);
        Self { tcp: session.tcp, records, input, closed, seen: Seen::default() }
    }

    /// Sends and receives as planned, at once, until both ends have said close_notify.
    pub(crate) async fn run(&mut self, mut plan: Plan) -> Result<(), RecordError> {
        let (mut writes, mut closing) = (0, false);
        self.open_all(|data| plan.expects.expect(data))?;
        while !(closing && self.closed && self.records.sealer.waiting() == 0) {
            if self.records.sealer.waiting() < 64 * 1024 && !closing {
                let left = plan.bytes - plan.sends.at;
                if left == 0 {
                    self.records.sealer.close()?;
                    closing = true;
                } else {
                    self.lay_down(plan.sends.next(size().min(left)))?;
                    writes += 1;
                    if writes % plan.rekey == 0 {
                        self.records.update_key((writes / plan.rekey).is_multiple_of(2))?;
                    }
                }
            }
            self.turn(&mut |data| plan.expects.expect(data)).await?;
        }
        self.seen.received = plan.expects.at;
        Ok(())
    }

    /// Waits until something moves, and moves it.
    pub(crate) async fn turn(&mut self, data: &mut impl FnMut(&[u8])) -> Result<(), RecordError> {
        let mut interest = if self.closed { None } else { Some(Interest::READABLE) };
        if self.records.sealer.waiting() > 0 {
            let write = Interest::WRITABLE;
            interest = Some(interest.map_or(write, |i| i.add(write)));
        }
        let Some(interest) = interest else { return Ok(()) };
        let ready = self.tcp.ready(interest).await.expect("a socket");
        if ready.is_writable() {
            self.write_some()?;
        }
        if ready.is_readable() && self.read_some()? {
            self.open_all(data)?;
        }
        Ok(())
    }

    /// As [`Ours::turn`], until `done` or the end.
    pub(crate) async fn until(
        &mut self,
        data: &mut impl FnMut(&[u8]),
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), RecordError> {
        self.open_all(&mut *data)?;
        while !self.closed && !done(self) {
            self.turn(data).await?;
        }
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes all that waits, in one piece if the socket takes it.
    pub(crate) async fn flush(&mut self) {
        while self.records.sealer.waiting() > 0 {
            self.tcp.writable().await.expect("a socket");
            if let Ok(n) = self.tcp.try_write(self.records.pending().expect("sealed")) {
                self.records.sealer.written(n);
            }
        }
    }

    /// Half of the time as the tunnel does: read straight into the record, behind a head.
    fn lay_down(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        let (head, rest) = bytes.split_at(bytes.len().min(9));
        if rest.is_empty() || rand::rng().random() {
            return self.records.sealer.append(bytes);
        }
        let mut copied = 0;
        let got = self.records.sealer.fill(
            rest.len(),
            |places| {
                for place in places {
                    let part = place.len().min(rest.len() - copied);
                    place[..part].copy_from_slice(&rest[copied..copied + part]);
                    copied += part;
                }
                Ok(copied)
            },
            |_| <[u8; 9]>::try_from(head).expect("nine bytes"),
        );
        let got = got.expect("a read that cannot fail");
        self.records.sealer.append(&rest[got..])
    }

    /// Some of what waits, often only a part of a record.
    fn write_some(&mut self) -> Result<(), RecordError> {
        let pending = self.records.pending()?;
        let part = if rand::rng().random() { pending.len() } else { size().min(pending.len()) };
        match self.tcp.try_write(&pending[..part]) {
            Ok(n) => self.records.sealer.written(n),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // The peer may be gone; what it said last is still to be read.
            Err(_) => self.records.sealer.written(part),
        }
        Ok(())
    }

    /// Whether anything came.
    fn read_some(&mut self) -> Result<bool, RecordError> {
        let have = self.input.len();
        self.input.resize(have + size().max(1), 0);
        let read = self.tcp.try_read(&mut self.input[have..]);
        self.input.truncate(have + read.as_ref().map_or(0, |n| *n));
        match read {
            Ok(0) => Err(RecordError::Truncated),
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(RecordError::Truncated),
        }
    }

    fn open_all(&mut self, mut data: impl FnMut(&[u8])) -> Result<(), RecordError> {
        let mut at = 0;
        while let Some((used, opened)) = self.records.open(&mut self.input[at..])? {
            match opened {
                Opened::Data(range) => data(&self.input[at..][range]),
                Opened::KeyUpdate { requested } => {
                    self.seen.key_updates += 1;
                    self.seen.requested += usize::from(requested);
                }
                Opened::Closed => self.closed = true,
                Opened::Nothing => {}
            }
            at += used;
        }
        self.input.drain(..at);
        Ok(())
    }
}

/// 0 to 200 KB, small as often as large.
pub(crate) fn size() -> usize {
    let mut rng = rand::rng();
    let most = [1, 100, 4096, 16_385, 200_000][rng.random_range(0..5)];
    rng.random_range(0..=most)
}
