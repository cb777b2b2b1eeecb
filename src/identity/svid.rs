//! An X.509-SVID: a SPIFFE ID with the certificate chain and the key that prove it.

use std::{fmt, time::SystemTime};

use pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::SpiffeId;

/// A private key as PKCS#8 DER. Wiped on drop; deliberately no `Clone` and no `Serialize`.
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    /// Takes over a PKCS#8 DER key.
    #[must_use]
    pub fn from_pkcs8(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(der))
    }

    /// The key's bytes, for the one place that builds a TLS signer from them.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

/// An X.509-SVID (X509-SVID §2): shared as `Arc<X509Svid>`, never copied.
#[derive(Debug)]
pub struct X509Svid {
    /// The ID in the leaf's only URI SAN.
    pub id: SpiffeId,
    /// Leaf first, then intermediates; no root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKey,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// The leaf's serial number, lower-case hex without separators.
    pub serial: String,
}

impl X509Svid {
    /// Whether it is within its validity.
    #[must_use]
    pub fn counts_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}
