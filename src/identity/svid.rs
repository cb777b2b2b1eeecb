//! An X.509-SVID: a SPIFFE ID with the certificate chain and the key that prove it.

use std::{fmt, time::SystemTime};

use pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{
    SpiffeId,
    x509::{Leaf, system_time},
};

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
    /// By what its leaf, the first of the chain, was found to say.
    #[must_use]
    pub fn of(leaf: Leaf, chain: Vec<CertificateDer<'static>>, key: PrivateKey) -> Self {
        let Leaf { id, not_before, not_after, serial, .. } = leaf;
        Self { id, chain, key, not_before, not_after, serial }
    }

    /// Whether it is within its validity.
    #[must_use]
    pub fn counts_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// This SVID, valid only as long as its intermediates are too: peers judge the whole chain (RFC
    /// 5280 §6.1.3).
    #[must_use]
    pub fn within_its_chain(mut self) -> Self {
        for der in self.chain.iter().skip(1) {
            let Ok((_, certificate)) = X509Certificate::from_der(der) else { continue };
            let validity = certificate.validity();
            self.not_before = self.not_before.max(system_time(validity.not_before));
            self.not_after = self.not_after.min(system_time(validity.not_after));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use std::time::Duration;

    use super::*;

    #[test]
    fn it_counts_as_long_as_its_whole_chain() {
        let second = Duration::from_secs(1);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(params.clone(), KeyPair::generate().unwrap());
        let mut certificate = |from: SystemTime, until: SystemTime| {
            (params.not_before, params.not_after) = (from.into(), until.into());
            params.signed_by(&key, &issuer).unwrap().der().clone()
        };
        let leaf = certificate(now, now + 3600 * second);
        let between = certificate(now + 5 * second, now + 600 * second);
        let svid = |chain: Vec<CertificateDer<'static>>| X509Svid {
            id: "spiffe://td/a".parse().unwrap(),
            chain,
            key: PrivateKey::from_pkcs8(vec![1]),
            not_before: now,
            not_after: now + 3600 * second,
            serial: "1".into(),
        };
        let alone = svid(vec![leaf.clone()]).within_its_chain();
        assert_eq!((alone.not_before, alone.not_after), (now, now + 3600 * second));
        let under = svid(vec![leaf, between]).within_its_chain();
        assert_eq!(under.not_before, now + 5 * second);
        assert_eq!(under.not_after, now + 600 * second);
        assert!(!under.counts_at(now + 601 * second));
    }
}
