//! One direction's key with its sequence number. There is no way to seal or open under a
//! chosen nonce: every use takes the next number, and the owner is not `Clone`.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};

use super::{HEADER, RecordError, TAIL};
use crate::tls::{Aead, TrafficSecrets};

/// A key and the number of the next record under it.
pub(super) struct SequencedKey {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    /// The key itself, where it may be handed on.
    lent: Option<TrafficSecrets>,
}

impl SequencedKey {
    pub(super) fn new(secrets: TrafficSecrets) -> Result<Self, RecordError> {
        let algorithm = match secrets.aead {
            Aead::Aes128Gcm => &AES_128_GCM,
            Aead::Aes256Gcm => &AES_256_GCM,
            Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, &secrets.key)
            .map_err(|_| RecordError::Keys("the key does not fit its cipher".into()))?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: secrets.iv,
            sequence: secrets.sequence,
            lent: None,
        })
    }

    /// Keeps what it was made of, to be handed on.
    pub(super) fn keep(&mut self, secrets: TrafficSecrets) {
        self.lent = Some(secrets);
    }

    /// Whether it was kept.
    pub(super) fn is_kept(&self) -> bool {
        self.lent.is_some()
    }

    /// Hands the key on, if it was kept for that; this end of it is gone.
    pub(super) fn into_secrets(self) -> Option<TrafficSecrets> {
        let sequence = self.sequence;
        self.lent.map(|secrets| TrafficSecrets { sequence, ..secrets })
    }

    /// How many records this key has seen.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// RFC 8446 §5.3: the IV with the sequence number in its last eight bytes.
    fn next_nonce(&mut self) -> Result<Nonce, RecordError> {
        let number = self.sequence;
        let exhausted = || RecordError::Keys("sequence numbers are used up".into());
        self.sequence = number.checked_add(1).ok_or_else(exhausted)?;
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(number.to_be_bytes()).for_each(|(byte, n)| *byte ^= n);
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Seals `body` in place under `header`; `tail` takes the inner type and the tag.
    pub(super) fn seal(
        &mut self,
        header: [u8; HEADER],
        body: &mut [u8],
        inner_type: u8,
        tail: &mut [u8],
    ) -> Result<(), RecordError> {
        debug_assert_eq!(tail.len(), TAIL);
        let nonce = self.next_nonce()?;
        self.key
            .seal_in_place_scatter(nonce, Aad::from(header), body, &[inner_type], tail)
            .map_err(|_| RecordError::Keys("sealing failed".into()))
    }

    /// Opens `record` in place; the length of what was inside, inner type included.
    pub(super) fn open(
        &mut self,
        header: [u8; HEADER],
        record: &mut [u8],
    ) -> Result<usize, RecordError> {
        let nonce = self.next_nonce()?;
        let opened = self.key.open_in_place(nonce, Aad::from(header), record);
        opened.map(|plain| plain.len()).map_err(|_| RecordError::BadMac)
    }
}
