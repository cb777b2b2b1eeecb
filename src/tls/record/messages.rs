//! What the records of a peer say once they are open: data, alerts (RFC 8446 §6), and the messages
//! that may follow a handshake (§4.6), each bounded. Whoever opens them, we or the kernel.

use std::ops::Range;

use super::{ALERT, APPLICATION_DATA, HANDSHAKE, RecordError};

/// What one record held.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Opened {
    /// Application data: where in the input it now lies, in the clear. May be empty.
    Data(Range<usize>),
    /// A message for TLS itself: a ticket (not used), or part of one.
    Nothing,
    /// The peer has taken its next key.
    KeyUpdate {
        /// It asks us to do the same.
        requested: bool,
    },
    /// close_notify: nothing follows, and nothing is missing.
    Closed,
}

/// How many empty records in a row are borne.
const MAX_EMPTY: u32 = 32;
/// How many messages to TLS itself are borne between two records with data.
const MAX_MESSAGES: u32 = 32;
/// The largest message after a handshake that is borne (a ticket: RFC 8446 §4.6.1).
const MAX_MESSAGE: usize = 66_000;

/// One direction's state beside its key.
#[derive(Default)]
pub struct Messages {
    /// A handshake message that is not whole yet.
    partial: Vec<u8>,
    empty: u32,
    messages: u32,
    closed: bool,
}

impl Messages {
    /// Whether the peer has said close_notify.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Whether nothing has begun that is not whole.
    pub(super) fn is_whole(&self) -> bool {
        self.partial.is_empty()
    }

    /// Takes a record of this content type; data lies at `at` in the input.
    ///
    /// # Errors
    /// The connection must end.
    pub fn take(&mut self, kind: u8, body: &[u8], at: usize) -> Result<Opened, RecordError> {
        if kind != HANDSHAKE && !self.partial.is_empty() {
            return Err(RecordError::Unexpected("a record inside a handshake message"));
        }
        match kind {
            APPLICATION_DATA => self.data(body.len(), at),
            ALERT => self.alert(body),
            HANDSHAKE => self.message(body),
            _ => Err(RecordError::Unexpected("unknown content type")),
        }
    }

    /// Data has passed that nobody here has looked at: what is counted between data begins anew.
    ///
    /// # Errors
    /// If a message of the peer had begun.
    pub fn passed(&mut self) -> Result<(), RecordError> {
        if !self.partial.is_empty() {
            return Err(RecordError::Unexpected("a record inside a handshake message"));
        }
        (self.empty, self.messages) = (0, 0);
        Ok(())
    }

    fn data(&mut self, length: usize, at: usize) -> Result<Opened, RecordError> {
        if length == 0 {
            self.empty += 1;
            if self.empty > MAX_EMPTY {
                return Err(RecordError::Unexpected("too many empty records"));
            }
        } else {
            (self.empty, self.messages) = (0, 0);
        }
        Ok(Opened::Data(at..at + length))
    }

    /// RFC 8446 §6: but for close_notify and user_canceled every alert is an error.
    fn alert(&mut self, body: &[u8]) -> Result<Opened, RecordError> {
        let [_level, code] = *body else { return Err(RecordError::Decode("alert")) };
        match code {
            0 => {
                self.closed = true;
                Ok(Opened::Closed)
            }
            90 => self.counted(Opened::Nothing),
            code => Err(RecordError::Alert(code)),
        }
    }

    /// Tickets are read over; key updates are followed; a message may be split over records
    /// and records may hold several, but no message spans a change of key (RFC 8446 §5.1).
    fn message(&mut self, body: &[u8]) -> Result<Opened, RecordError> {
        if body.is_empty() {
            return Err(RecordError::Unexpected("an empty handshake record"));
        }
        self.partial.extend_from_slice(body);
        while let Some(&[kind, a, b, c]) = self.partial.first_chunk::<4>() {
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if length > MAX_MESSAGE {
                return Err(RecordError::Decode("a handshake message too long"));
            }
            match kind {
                NEW_SESSION_TICKET => {
                    if self.partial.len() < 4 + length {
                        break;
                    }
                    self.partial.drain(..4 + length);
                    self.counted(Opened::Nothing)?;
                }
                KEY_UPDATE => {
                    if length != 1 {
                        return Err(RecordError::Decode("KeyUpdate"));
                    }
                    let Some(&request) = self.partial.get(4) else { break };
                    if self.partial.len() > 5 {
                        return Err(RecordError::Unexpected("data behind a KeyUpdate"));
                    }
                    self.partial = Vec::new();
                    return match request {
                        0 | 1 => self.counted(Opened::KeyUpdate { requested: request == 1 }),
                        _ => Err(RecordError::Decode("KeyUpdate")),
                    };
                }
                _ => return Err(RecordError::Unexpected("handshake message")),
            }
        }
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
        self.counted(Opened::Nothing)
    }

    fn counted(&mut self, opened: Opened) -> Result<Opened, RecordError> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return Err(RecordError::Unexpected("too many messages without data"));
        }
        Ok(opened)
    }
}

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
