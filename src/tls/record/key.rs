//! One direction's key with its sequence number. There is no way to seal or open under a
//! chosen nonce: every use takes the next number, and the owner is not `Clone`.

use super::{
    HEADER, RecordError,
    aead::{Key, TAG},
    choice::implementation,
};
use crate::tls::{TlsError, TrafficKey, TrafficSecret};

/// A key and the number of the next record under it.
pub(super) struct SequencedKey {
    key: Key,
    iv: [u8; 12],
    /// What it was made of; the number is the next record's.
    secret: TrafficSecret,
}

fn unmade(error: &TlsError) -> RecordError {
    RecordError::Keys(error.to_string())
}

impl SequencedKey {
    pub(super) fn new(secret: TrafficSecret) -> Result<Self, RecordError> {
        let (key, iv) = Self::made_of(&secret)?;
        Ok(Self { key, iv, secret })
    }

    fn made_of(secret: &TrafficSecret) -> Result<(Key, [u8; 12]), RecordError> {
        let TrafficKey { aead, key, iv, .. } = secret.key().map_err(|e| unmade(&e))?;
        let key = Key::new(implementation(aead), aead, &key)
            .map_err(|_| RecordError::Keys("the key does not fit its cipher".into()))?;
        Ok((key, iv))
    }

    /// Takes the next key (RFC 8446 §7.2).
    pub(super) fn update(&mut self) -> Result<(), RecordError> {
        let next = self.secret.next().map_err(|e| unmade(&e))?;
        let (key, iv) = Self::made_of(&next)?;
        // All or nothing: a new number under an old key would be used twice.
        (self.key, self.iv, self.secret) = (key, iv, next);
        Ok(())
    }

    /// Hands the direction on; this end of it is gone.
    pub(super) fn into_secret(self) -> TrafficSecret {
        self.secret
    }

    /// How many records this key has seen.
    pub(super) fn sequence(&self) -> u64 {
        self.secret.sequence
    }

    /// RFC 8446 §5.3: the IV with the sequence number in its last eight bytes.
    fn next_nonce(&mut self) -> Result<[u8; 12], RecordError> {
        let number = self.secret.sequence;
        let exhausted = || RecordError::Keys("sequence numbers are used up".into());
        self.secret.sequence = number.checked_add(1).ok_or_else(exhausted)?;
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(number.to_be_bytes()).for_each(|(byte, n)| *byte ^= n);
        Ok(nonce)
    }

    /// Seals in place what stands before the last [`super::TAIL`] bytes of `record`, under
    /// `header`; those take the inner type and the tag.
    pub(super) fn seal(
        &mut self,
        header: [u8; HEADER],
        record: &mut [u8],
        inner_type: u8,
    ) -> Result<(), RecordError> {
        let failed = || RecordError::Keys("sealing failed".into());
        let nonce = self.next_nonce()?;
        let (text, tag) = record.split_last_chunk_mut::<TAG>().ok_or_else(failed)?;
        *text.last_mut().ok_or_else(failed)? = inner_type;
        *tag = self.key.seal(nonce, &header, text).map_err(|_| failed())?;
        Ok(())
    }

    /// Opens `record` in place; the length of what was inside, inner type included.
    pub(super) fn open(
        &mut self,
        header: [u8; HEADER],
        record: &mut [u8],
    ) -> Result<usize, RecordError> {
        let nonce = self.next_nonce()?;
        self.key.open(nonce, &header, record).map_err(|_| RecordError::BadMac)
    }
}
