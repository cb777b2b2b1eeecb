//! The end of TLS 1.3's key schedule (RFC 8446 §7): from a traffic secret to the key and the IV
//! of its records, and to the next traffic secret. All of it is plain: what a direction needs to
//! go on is its secret and the number of its next record.

use std::{cell::RefCell, sync::Arc};

use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use rustls::KeyLog;
use zeroize::Zeroizing;

use super::TlsError;

/// The AEADs of TLS 1.3 (RFC 8446 §B.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Aead {
    /// `TLS_AES_128_GCM_SHA256`
    Aes128Gcm,
    /// `TLS_AES_256_GCM_SHA384`
    Aes256Gcm,
    /// `TLS_CHACHA20_POLY1305_SHA256`
    ChaCha20Poly1305,
}

impl Aead {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }

    /// The bytes of its key.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// The bytes of a traffic secret: as many as its suite's hash gives.
    #[must_use]
    pub fn secret_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => 32,
            Self::Aes256Gcm => MOST_SECRET,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => HKDF_SHA256,
            Self::Aes256Gcm => HKDF_SHA384,
        }
    }
}

/// SHA-384's.
const MOST_SECRET: usize = 48;
const IV: usize = 12;

/// One direction's key and IV (RFC 8446 §7.3), with the number of its next record.
/// Neither `Debug` nor `Clone`: there is one owner of a key and its sequence.
pub struct TrafficKey {
    /// Which cipher.
    pub aead: Aead,
    /// The key: [`Aead::key_len`] bytes.
    pub key: Zeroizing<Vec<u8>>,
    /// The static IV.
    pub iv: [u8; IV],
    /// The sequence number of the next record (0 after a key update).
    pub sequence: u64,
}

/// One direction of a connection: its traffic secret, from which everything else follows, and the
/// number of its next record. Neither `Debug` nor `Clone`, as [`TrafficKey`].
pub struct TrafficSecret {
    aead: Aead,
    /// The first [`Aead::secret_len`] bytes of it.
    secret: Zeroizing<[u8; MOST_SECRET]>,
    /// The sequence number of the next record (0 after a key update).
    pub sequence: u64,
}

impl TrafficSecret {
    /// A direction whose next record has this number.
    ///
    /// # Errors
    /// If the secret has not the length that the suite's hash gives.
    pub fn new(aead: Aead, secret: &[u8], sequence: u64) -> Result<Self, TlsError> {
        if secret.len() != aead.secret_len() {
            return Err(TlsError::Other("a traffic secret of another length".into()));
        }
        let mut kept = Zeroizing::new([0; MOST_SECRET]);
        kept[..secret.len()].copy_from_slice(secret);
        Ok(Self { aead, secret: kept, sequence })
    }

    /// Which cipher.
    #[must_use]
    pub fn aead(&self) -> Aead {
        self.aead
    }

    /// The secret itself: for whoever goes on where this one ends.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.secret[..self.aead.secret_len()]
    }

    /// RFC 8446 §7.3: the key and the IV of its records.
    ///
    /// # Errors
    /// If HKDF fails, which it does not at these lengths.
    pub fn key(&self) -> Result<TrafficKey, TlsError> {
        let mut key = Zeroizing::new(vec![0; self.aead.key_len()]);
        let mut iv = [0; IV];
        self.expand_label(b"key", &mut key)?;
        self.expand_label(b"iv", &mut iv)?;
        Ok(TrafficKey { aead: self.aead, key, iv, sequence: self.sequence })
    }

    /// RFC 8446 §7.2: the next one, whose records begin at 0.
    ///
    /// # Errors
    /// As [`TrafficSecret::key`].
    pub fn next(&self) -> Result<Self, TlsError> {
        let mut secret = Zeroizing::new([0; MOST_SECRET]);
        self.expand_label(b"traffic upd", &mut secret[..self.aead.secret_len()])?;
        Ok(Self { aead: self.aead, secret, sequence: 0 })
    }

    /// RFC 8446 §7.1: HKDF-Expand-Label(Secret, Label, "", Length).
    fn expand_label(&self, label: &[u8], out: &mut [u8]) -> Result<(), TlsError> {
        struct Length(usize);
        impl KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let failed = || TlsError::Other("HKDF failed".into());
        let [high, low] = u16::try_from(out.len()).map_err(|_| failed())?.to_be_bytes();
        let labels = [LABEL.len() + label.len()].map(|n| u8::try_from(n).unwrap_or(u8::MAX));
        let info: [&[u8]; 5] = [&[high, low], &labels, LABEL, label, &[0]];
        let prk = Prk::new_less_safe(self.aead.hkdf(), self.as_bytes());
        let okm = prk.expand(&info, Length(out.len())).map_err(|_| failed())?;
        okm.fill(out).map_err(|_| failed())
    }
}

const LABEL: &[u8] = b"tls13 ";

/// What one handshake has come to so far, where it was TLS 1.3.
#[derive(Default)]
pub(super) struct Agreed {
    client: Option<Zeroizing<Vec<u8>>>,
    server: Option<Zeroizing<Vec<u8>>>,
}

impl Agreed {
    /// Takes what a further step came to.
    pub(super) fn add(&mut self, later: Self) {
        self.client = later.client.or(self.client.take());
        self.server = later.server.or(self.server.take());
    }

    /// What the client sends with, and the server; `None` before both are agreed on.
    pub(super) fn secrets(&self) -> Option<(&[u8], &[u8])> {
        Some((self.client.as_ref()?, self.server.as_ref()?))
    }
}

thread_local! {
    /// What the step of a handshake that runs on this thread has come to. A step runs on one thread
    /// from its beginning to its end.
    static STEP: RefCell<Option<Agreed>> = const { RefCell::new(None) };
}

/// Does one step of a handshake: what it said, and the secrets that were agreed on in it.
pub(super) fn heard<T>(step: impl FnOnce() -> T) -> (T, Agreed) {
    STEP.set(Some(Agreed::default()));
    let done = step();
    (done, STEP.take().unwrap_or_default())
}

/// Every configuration of a handshake whose records become ours tells its secrets to this one. It
/// keeps them for the step that is running and for nobody else; nothing is written anywhere.
#[derive(Debug)]
struct ForOurselves;

impl KeyLog for ForOurselves {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        STEP.with_borrow_mut(|step| {
            let Some(agreed) = step else { return };
            let secret = Some(Zeroizing::new(secret.to_vec()));
            match label {
                CLIENT => agreed.client = secret,
                SERVER => agreed.server = secret,
                _ => {}
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        [CLIENT, SERVER].contains(&label)
    }
}

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// The key log of a configuration whose connections' records become ours.
#[must_use]
pub fn traffic_secrets() -> Arc<dyn KeyLog> {
    Arc::new(ForOurselves)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(pair).collect()
    }

    /// RFC 8448 §3: the application traffic secrets, and the keys and IVs that follow from them.
    #[test]
    fn keys_of_rfc_8448() {
        for (secret, key, iv) in [
            (
                "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
                "17422dda596ed5d9acd890e3c63f5051",
                "5b78923dee08579033e523d9",
            ),
            (
                "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
                "9f02283b6c9c07efc26bb9f2ac92e356",
                "cf782b88dd83549aadf1e984",
            ),
        ] {
            let secret = TrafficSecret::new(Aead::Aes128Gcm, &hex(secret), 3).unwrap();
            let TrafficKey { key: found, iv: found_iv, sequence, .. } = secret.key().unwrap();
            assert_eq!((&**found, &found_iv[..], sequence), (&*hex(key), &*hex(iv), 3));
        }
    }

    #[test]
    fn the_next_secret_is_another_and_its_records_begin_at_0() {
        for aead in Aead::ALL {
            let bytes = vec![7; aead.secret_len()];
            let mut secret = TrafficSecret::new(aead, &bytes, 9).unwrap();
            let before = secret.key().unwrap();
            secret = secret.next().unwrap();
            let after = secret.key().unwrap();
            assert!(secret.as_bytes() != bytes && after.key != before.key && after.iv != before.iv);
            assert_eq!((secret.sequence, after.key.len()), (0, aead.key_len()));
            assert!(TrafficSecret::new(aead, &bytes[1..], 0).is_err());
        }
    }

    #[test]
    fn secrets_are_kept_for_the_step_that_is_running_alone() {
        let log = traffic_secrets();
        assert!(!log.will_log("CLIENT_HANDSHAKE_TRAFFIC_SECRET") && log.will_log(CLIENT));
        log.log(CLIENT, &[], &[1; 32]);
        let ((), mut agreed) = heard(|| log.log(SERVER, &[], &[2; 32]));
        assert!(agreed.secrets().is_none(), "that of no step was not kept");
        let ((), later) = heard(|| log.log(CLIENT, &[], &[3; 32]));
        agreed.add(later);
        assert!(agreed.secrets() == Some((&[3; 32], &[2; 32])));
        assert!(heard(|| ()).1.secrets().is_none(), "the next step begins with nothing");
    }
}
