//! The AEADs of TLS 1.3 by either of two implementations that give the same bytes; which one is
//! the faster depends on the CPU ([`super::choice`]).

use std::hint::black_box;

use aws_lc_rs::aead as aws_lc;
use ring::aead as ring;

use crate::tls::Aead;

/// The tag of every AEAD of TLS 1.3.
pub(super) const TAG: usize = 16;

/// Whose code seals and opens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Implementation {
    /// The crate `aws-lc-rs`, which does everything else too.
    AwsLc,
    /// The crate `ring`.
    Ring,
}

impl Implementation {
    /// All of them; the default first.
    pub const ALL: [Self; 2] = [Self::AwsLc, Self::Ring];

    /// Its name, as the configuration has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc",
            Self::Ring => "ring",
        }
    }
}

/// A key that does not fit, a text too long, or a record that does not open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct AeadError;

/// One key. Whoever has it sees to it that no nonce is used twice.
pub(super) enum Key {
    AwsLc(aws_lc::LessSafeKey),
    Ring(RingKey),
}

impl Key {
    pub(super) fn new(by: Implementation, aead: Aead, key: &[u8]) -> Result<Self, AeadError> {
        match by {
            Implementation::AwsLc => {
                let algorithm = match aead {
                    Aead::Aes128Gcm => &aws_lc::AES_128_GCM,
                    Aead::Aes256Gcm => &aws_lc::AES_256_GCM,
                    Aead::ChaCha20Poly1305 => &aws_lc::CHACHA20_POLY1305,
                };
                let key = aws_lc::UnboundKey::new(algorithm, key).map_err(|_| AeadError)?;
                Ok(Self::AwsLc(aws_lc::LessSafeKey::new(key)))
            }
            Implementation::Ring => {
                let algorithm = match aead {
                    Aead::Aes128Gcm => &ring::AES_128_GCM,
                    Aead::Aes256Gcm => &ring::AES_256_GCM,
                    Aead::ChaCha20Poly1305 => &ring::CHACHA20_POLY1305,
                };
                RingKey::new(algorithm, key).map(Self::Ring)
            }
        }
    }

    /// Seals in place; the tag.
    #[inline]
    pub(super) fn seal(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; TAG], AeadError> {
        let mut tag = [0; TAG];
        match self {
            Self::AwsLc(key) => {
                let nonce = aws_lc::Nonce::assume_unique_for_key(nonce);
                let made = key.seal_in_place_separate_tag(nonce, aws_lc::Aad::from(aad), text);
                tag.copy_from_slice(made.map_err(|_| AeadError)?.as_ref());
            }
            Self::Ring(RingKey(key)) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                let made = key.seal_in_place_separate_tag(nonce, ring::Aad::from(aad), text);
                tag.copy_from_slice(made.map_err(|_| AeadError)?.as_ref());
            }
        }
        Ok(tag)
    }

    /// Opens in place what ends in its tag; how long the plaintext at its start is.
    #[inline]
    pub(super) fn open(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        sealed: &mut [u8],
    ) -> Result<usize, AeadError> {
        match self {
            Self::AwsLc(key) => {
                let nonce = aws_lc::Nonce::assume_unique_for_key(nonce);
                let opened = key.open_in_place(nonce, aws_lc::Aad::from(aad), sealed);
                opened.map(|plain| plain.len()).map_err(|_| AeadError)
            }
            Self::Ring(RingKey(key)) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                let opened = key.open_in_place(nonce, ring::Aad::from(aad), sealed);
                opened.map(|plain| plain.len()).map_err(|_| AeadError)
            }
        }
    }
}

/// A key of `ring`, in one place on the heap and written over at its end: `ring` leaves that to
/// whoever uses it, unlike aws-lc.
pub(super) struct RingKey(Box<ring::LessSafeKey>);

impl RingKey {
    fn new(algorithm: &'static ring::Algorithm, key: &[u8]) -> Result<Self, AeadError> {
        let key = ring::UnboundKey::new(algorithm, key).map_err(|_| AeadError)?;
        Ok(Self(Box::new(ring::LessSafeKey::new(key))))
    }
}

impl Drop for RingKey {
    fn drop(&mut self) {
        let algorithm = self.0.algorithm();
        if let Ok(nothing) = ring::UnboundKey::new(algorithm, &[0; 32][..algorithm.key_len()]) {
            *self.0 = ring::LessSafeKey::new(nothing);
            // Or the compiler would leave out what nobody reads.
            black_box(&mut self.0);
        }
    }
}
