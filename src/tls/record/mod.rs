//! TLS 1.3 records (RFC 8446 §5) without I/O: plaintext in, sealed bytes out, and back.
//!
//! [`Sealer`] and [`Opener`] are the two directions; [`Records`] joins them where one answers
//! the other: a key update that the peer asks for. The handshake is rustls' ([`super`]);
//! what arrives here are its traffic secrets. All state is plain, so that a live connection
//! can be described in full.

mod aead;
mod choice;
mod choices_view;
mod key;
mod messages;
mod open;
mod seal;
#[cfg(test)]
pub(crate) mod tests;

pub use aead::Implementation;
pub use choice::{AeadSetting, Choice, Measured, choices, choose, prefer};
pub use choices_view::{ChoiceView, ChoicesView, SpeedsView};
pub use messages::{Messages, Opened};
pub use open::Opener;
pub use seal::{MOST_READ, Sealer};

use crate::{identity::alert_words, tls::Keys};

/// RFC 8446 §5.1: the most plaintext in one record.
pub const MAX_PLAINTEXT: usize = 1 << 14;
/// The record header.
pub const HEADER: usize = 5;
/// What follows the plaintext inside a record: the inner content type and the AEAD's tag.
pub const TAIL: usize = 1 + 16;
/// The most that follows a header (RFC 8446 §5.2).
const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 256;
/// The longest record on the wire.
pub const MAX_RECORD: usize = HEADER + MAX_CIPHERTEXT;
/// After so many records a direction takes its next key: a quarter of what AES-GCM bears
/// (RFC 8446 §5.5: 2^24.5 full records).
const REKEY_AFTER: u64 = 1 << 22;

/// Content types (RFC 8446 §B.1).
pub const ALERT: u8 = 21;
/// Messages to TLS itself.
pub const HANDSHAKE: u8 = 22;
/// What an application says.
pub const APPLICATION_DATA: u8 = 23;

/// What is wrong with what the peer sent. Each ends the connection.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// A record that does not open: forged, damaged, lost or repeated.
    #[error("a TLS record failed authentication (bad_record_mac)")]
    BadMac,
    /// Longer than a record may be.
    #[error("a TLS record is too long (record_overflow)")]
    Overflow,
    /// Plaintext, an unknown type, or a message out of place.
    #[error("unexpected TLS message: {0}")]
    Unexpected(&'static str),
    /// A message that cannot be read.
    #[error("malformed TLS message: {0}")]
    Decode(&'static str),
    /// The peer ended the connection with an alert.
    #[error("the peer ended TLS with alert {}", alert_words((*.0).into()))]
    Alert(u8),
    /// The transport ended without close_notify: what came may not be all.
    #[error("the connection ended without close_notify: truncated")]
    Truncated,
    /// Keys are used up or cannot be made.
    #[error("TLS keys: {0}")]
    Keys(String),
}

impl RecordError {
    /// The alert that tells the peer (RFC 8446 §6.2).
    #[must_use]
    pub fn alert(&self) -> Option<u8> {
        match self {
            Self::BadMac => Some(20),
            Self::Overflow => Some(22),
            Self::Unexpected(_) => Some(10),
            Self::Decode(_) => Some(50),
            Self::Keys(_) => Some(80),
            Self::Alert(_) | Self::Truncated => None,
        }
    }
}

/// Both directions of one connection.
pub struct Records {
    /// What we send.
    pub sealer: Sealer,
    opener: Opener,
}

impl Records {
    /// Takes over after the handshake.
    ///
    /// # Errors
    /// If the secrets do not fit their cipher.
    pub fn new(keys: Keys) -> Result<Self, RecordError> {
        Ok(Self { sealer: Sealer::new(keys.send)?, opener: Opener::new(keys.receive)? })
    }

    /// Whether [`Records::into_keys`] would give them: while nothing waits to be written and no
    /// message has begun.
    #[must_use]
    pub fn can_be_handed_on(&self) -> bool {
        self.sealer.can_be_handed_on() && self.opener.can_be_handed_on()
    }

    /// The secrets with the numbers of their next records, and what the peer has said so far: for a
    /// record layer that goes on where this one ends.
    #[must_use]
    pub fn into_keys(self) -> Option<(Keys, Messages)> {
        let send = self.sealer.into_secret()?;
        let (receive, messages) = self.opener.into_parts()?;
        Some((Keys { send, receive }, messages))
    }

    /// Opens the first record of `input` in place; `None` if it is not whole yet. Key updates
    /// are followed here, and answered if the peer asks (RFC 8446 §4.6.3).
    ///
    /// # Errors
    /// The connection must end; [`RecordError::alert`] says what to tell the peer.
    pub fn open(&mut self, input: &mut [u8]) -> Result<Option<(usize, Opened)>, RecordError> {
        let Some((used, opened)) = self.opener.open(input)? else { return Ok(None) };
        if let Opened::KeyUpdate { requested } = opened {
            self.opener.rekey()?;
            if requested && !self.sealer.rekeyed_unanswered() {
                self.update_key(false)?;
            }
        }
        Ok(Some((used, opened)))
    }

    /// Seals what is open, takes a new sending key first if the present one is worn, and
    /// shows what waits to be written.
    ///
    /// # Errors
    /// If no further key can be made.
    pub fn pending(&mut self) -> Result<&[u8], RecordError> {
        if self.sealer.worn(REKEY_AFTER) {
            self.update_key(false)?;
        }
        self.sealer.pending()
    }

    /// Sends a KeyUpdate and takes the next sending key; `request` asks the peer to do the same.
    ///
    /// # Errors
    /// If no further key can be made.
    pub fn update_key(&mut self, request: bool) -> Result<(), RecordError> {
        self.sealer.key_update(request)?;
        self.sealer.rekey()
    }
}
