//! The keys that the kernel is given, and how many records each may make.

use crate::{
    sys::ktls::{Cipher, Key, Version},
    tls::{Aead, TrafficKey},
};

/// So many records one key of AES-GCM bears in TLS 1.2, which has no next key; as rustls has it.
const MOST_OF_TLS12: u64 = 1 << 24;
/// RFC 8446 §5.1, and RFC 5246 §6.2.1.
const MAX_PLAINTEXT: usize = 1 << 14;
/// After so many records a direction takes its next key, as in userspace.
const REKEY_AFTER: u64 = 1 << 22;

/// What the kernel is told of a key.
pub(super) fn key(version: Version, secrets: &TrafficKey) -> Key<'_> {
    let cipher = match secrets.aead {
        Aead::Aes128Gcm => Cipher::Aes128Gcm,
        Aead::Aes256Gcm => Cipher::Aes256Gcm,
        Aead::ChaCha20Poly1305 => Cipher::ChaCha20Poly1305,
    };
    Key { version, cipher, key: &secrets.key, iv: secrets.iv, sequence: secrets.sequence }
}

/// What the kernel is told of a key for what we send. In TLS 1.2 with AES-GCM each record carries
/// its nonce: rustls made those of the handshake by XOR with the record's number, the kernel counts
/// up from the one that it is given. Both from the same start would use one twice; so the kernel
/// begins at the other end of the numbers.
pub(super) fn sending(version: Version, secrets: &TrafficKey) -> Key<'_> {
    let mut key = key(version, secrets);
    if version == Version::Tls12 && key.cipher != Cipher::ChaCha20Poly1305 {
        key.iv[4] ^= 0x80;
    }
    key
}

/// How many records one key may make.
pub(super) fn most(version: Version, aead: Aead) -> u64 {
    match (version, aead) {
        (Version::Tls13, _) => REKEY_AFTER,
        (Version::Tls12, Aead::ChaCha20Poly1305) => u64::MAX,
        (Version::Tls12, Aead::Aes128Gcm | Aead::Aes256Gcm) => MOST_OF_TLS12,
    }
}

/// How many records the kernel makes of so many bytes. It may make more of them where they came in
/// small pieces; what a key bears is a matter of bytes then.
pub(super) fn records(bytes: usize) -> u64 {
    bytes.div_ceil(MAX_PLAINTEXT) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_makes_so_many_records_and_no_more() {
        assert_eq!([1, 16_384, 16_385, 1 << 20].map(records), [1, 1, 2, 64]);
        let aead = [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305];
        assert_eq!(aead.map(|aead| most(Version::Tls13, aead)), [REKEY_AFTER; 3]);
        let tls12 = aead.map(|aead| most(Version::Tls12, aead));
        assert_eq!(tls12, [1 << 24, 1 << 24, u64::MAX]);
    }
}
