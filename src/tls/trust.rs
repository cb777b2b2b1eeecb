//! What a peer's certificate is checked against where it need not be an X.509-SVID: the rustls
//! verifiers of [`super::secured`].

use std::{fmt, sync::Arc};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::{CertificateError, DistinguishedName, Error};

use super::{
    roots::{Judge, StaleCrls, check_leaf_key},
    verifier::{Presented, VerifyPeer, refused},
};
use crate::identity::{BundleSet, verify_svid};

/// The digest of a key, `sha256:BASE64` (RFC 7469 §2.4), or with sha384, sha512: of the
/// SubjectPublicKeyInfo in DER.
#[derive(Clone, Eq, PartialEq)]
pub struct Pin {
    algorithm: &'static digest::Algorithm,
    name: &'static str,
    value: Vec<u8>,
}

impl Pin {
    /// The pin of a certificate's key, SHA-256; `None` if the certificate cannot be read.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let key = certificate.tbs_certificate.subject_pki.raw;
        let value = digest::digest(&digest::SHA256, key).as_ref().to_vec();
        Some(Self { algorithm: &digest::SHA256, name: "sha256", value })
    }

    /// Whether it is the key of this certificate.
    #[must_use]
    pub fn fits(&self, certificate: &CertificateDer<'_>) -> bool {
        use x509_parser::prelude::{FromDer, X509Certificate};
        X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
            let key = certificate.tbs_certificate.subject_pki.raw;
            digest::digest(self.algorithm, key).as_ref() == self.value
        })
    }
}

impl std::str::FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').ok_or("expected ALGORITHM:BASE64")?;
        let (name, algorithm) = match name {
            "sha256" => ("sha256", &digest::SHA256),
            "sha384" => ("sha384", &digest::SHA384),
            "sha512" => ("sha512", &digest::SHA512),
            other => return Err(format!("{other:?}: must be sha256, sha384 or sha512")),
        };
        let value = BASE64.decode(value).map_err(|e| format!("is not base64: {e}"))?;
        if value.len() != algorithm.output_len() {
            let (has, wants) = (value.len(), algorithm.output_len());
            return Err(format!("has {has} bytes, but {name} needs {wants}"));
        }
        Ok(Self { algorithm, name, value })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(&self.value))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What proves a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PeerTrust {
    /// A chain to one of these roots (RFC 5280 §6), that no CRL revokes; towards a server also
    /// its name (RFC 6125).
    Roots {
        /// The roots.
        roots: Arc<[CertificateDer<'static>]>,
        /// CRLs.
        crls: Arc<[CertificateRevocationListDer<'static>]>,
        /// What one that has passed its nextUpdate means.
        stale: StaleCrls,
    },
    /// An X.509-SVID of a trust domain that has a bundle here (X509-SVID §5).
    Spiffe(Arc<BundleSet>),
    /// One of these keys, whatever the rest of the certificate says.
    Pinned(Arc<[Pin]>),
}

impl PeerTrust {
    /// Roots without CRLs.
    #[must_use]
    pub fn roots(roots: Vec<CertificateDer<'static>>) -> Self {
        Self::Roots { roots: roots.into(), crls: Arc::default(), stale: StaleCrls::default() }
    }

    /// Whether there is no root that anybody could be checked against.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Roots { roots, .. } if roots.is_empty())
    }
}

/// How many certificates a peer may show: each costs signatures to check, and is kept for as long
/// as its connection lasts.
const LONGEST_CHAIN: usize = 16;

/// Lets pass whom a [`PeerTrust`] proves.
#[derive(Debug)]
pub struct PeerVerifier {
    trust: PeerTrust,
    judge: Option<Judge>,
    hints: Vec<DistinguishedName>,
    demanded: bool,
}

impl PeerVerifier {
    /// Prepares for peers of one role each; a client without a certificate is refused if
    /// `demanded`.
    ///
    /// # Errors
    /// If there is no root that is valid, or a CRL cannot be read.
    pub fn new(trust: PeerTrust, demanded: bool) -> Result<Self, String> {
        if trust.is_empty() {
            return Err("there are no trusted roots; name a file of CA certificates".into());
        }
        let judge = match &trust {
            PeerTrust::Roots { roots, crls, stale } => Some(Judge::new(roots, crls, *stale)?),
            _ => None,
        };
        let hints = judge.as_ref().map(Judge::hints).unwrap_or_default();
        Ok(Self { trust, judge, hints, demanded })
    }
}

impl VerifyPeer for PeerVerifier {
    fn verify(&self, peer: &Presented<'_>) -> Result<(), Error> {
        let Presented { leaf, intermediates, now, purpose, .. } = *peer;
        if intermediates.len() >= LONGEST_CHAIN {
            return Err(Error::General(format!("more than {LONGEST_CHAIN} certificates")));
        }
        match (&self.trust, &self.judge, peer.name) {
            (PeerTrust::Roots { .. }, Some(judge), Some(name)) => {
                judge.verify_server(leaf, intermediates, name, now).map(drop)
            }
            (PeerTrust::Roots { .. }, Some(judge), None) => {
                judge.verify_client(leaf, intermediates, now).map(drop)
            }
            (PeerTrust::Roots { .. }, None, _) => Err(Error::General("no verifier".into())),
            (PeerTrust::Spiffe(bundles), ..) => {
                verify_svid(&peer.chain(), bundles, now, purpose).map(drop).map_err(refused)
            }
            (PeerTrust::Pinned(pins), ..) if pins.iter().any(|pin| pin.fits(leaf)) => {
                check_leaf_key(leaf)
            }
            (PeerTrust::Pinned(_), ..) => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
        }
    }

    fn demanded(&self) -> bool {
        self.demanded
    }

    fn hints(&self) -> &[DistinguishedName] {
        &self.hints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of it counts, in each of the three.
    #[test]
    fn a_pin_fits_its_own_key_to_the_last_bit() {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let digests = [&digest::SHA256, &digest::SHA384, &digest::SHA512];
        for (name, algorithm) in ["sha256", "sha384", "sha512"].into_iter().zip(digests) {
            let own =
                digest::digest(algorithm, &rcgen::PublicKeyData::subject_public_key_info(&key));
            let pin = |value: &[u8]| format!("{name}:{}", BASE64.encode(value)).parse::<Pin>();
            assert!(pin(own.as_ref()).unwrap().fits(cert.der()), "{name}");
            for at in 0..own.as_ref().len() {
                let mut other = own.as_ref().to_vec();
                other[at] ^= 1;
                assert!(!pin(&other).unwrap().fits(cert.der()), "{name}, byte {at}");
            }
            assert!(pin(&own.as_ref()[1..]).unwrap_err().contains("bytes"), "{name}");
        }
        assert_eq!(Pin::of(cert.der()).unwrap().name, "sha256");
        assert!(Pin::of(cert.der()).unwrap().fits(cert.der()));
    }
}
