//! Receiving: RFC 8446 §5.1 to §5.4.

use super::{
    APPLICATION_DATA, HEADER, MAX_CIPHERTEXT, MAX_PLAINTEXT, RecordError, TAIL,
    key::SequencedKey,
    messages::{Messages, Opened},
};
use crate::tls::TrafficSecret;

/// The receiving direction.
pub struct Opener {
    key: SequencedKey,
    messages: Messages,
}

impl Opener {
    pub(super) fn new(secret: TrafficSecret) -> Result<Self, RecordError> {
        let key = SequencedKey::new(secret)?;
        Ok(Self { key, messages: Messages::default() })
    }

    /// Takes the next key.
    pub(super) fn rekey(&mut self) -> Result<(), RecordError> {
        self.key.update()
    }

    /// Opens the first record of `input` in place: how long it was and what it held.
    pub(super) fn open(
        &mut self,
        input: &mut [u8],
    ) -> Result<Option<(usize, Opened)>, RecordError> {
        if self.messages.closed() {
            // RFC 8446 §6.1: what follows close_notify is ignored.
            return Ok((!input.is_empty()).then_some((input.len(), Opened::Nothing)));
        }
        let Some(&header) = input.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != APPLICATION_DATA {
            return Err(RecordError::Unexpected("a record that is not encrypted"));
        }
        if length > MAX_CIPHERTEXT {
            return Err(RecordError::Overflow);
        }
        if length < TAIL {
            return Err(RecordError::BadMac);
        }
        let end = HEADER + length;
        let Some(record) = input.get_mut(HEADER..end) else { return Ok(None) };
        let inner = self.key.open(header, record)?;
        // RFC 8446 §5.4: the type is the last byte that is not padding.
        let plain = &record[..inner];
        let typed = plain.iter().rposition(|b| *b != 0);
        let typed = typed.ok_or(RecordError::Unexpected("a record of padding only"))?;
        if typed > MAX_PLAINTEXT {
            return Err(RecordError::Overflow);
        }
        let (kind, body) = (plain[typed], &plain[..typed]);
        let opened = self.messages.take(kind, body, HEADER)?;
        Ok(Some((end, opened)))
    }

    /// Not while a message has begun, nor after the end.
    pub(super) fn can_be_handed_on(&self) -> bool {
        self.messages.is_whole() && !self.messages.closed()
    }

    /// The secret and what has been understood so far.
    pub(super) fn into_parts(self) -> Option<(TrafficSecret, Messages)> {
        self.can_be_handed_on().then_some(())?;
        Some((self.key.into_secret(), self.messages))
    }
}
