//! One base for all who judge a peer's certificate in a handshake: rustls asks in two places, about
//! servers and about clients, and in both about signatures too. What differs is a [`VerifyPeer`].

use std::{fmt, sync::Arc};

use pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::shown;
use crate::identity::{BundleSet, Purpose, SpiffeId, SvidError, verify_svid};

/// What a peer presents in a handshake.
pub struct Presented<'a> {
    /// Its certificate.
    pub leaf: &'a CertificateDer<'a>,
    /// What came behind it.
    pub intermediates: &'a [CertificateDer<'a>],
    /// Of a server, the name that was asked for.
    pub name: Option<&'a ServerName<'a>>,
    /// What it is to be.
    pub purpose: Purpose,
    /// The time.
    pub now: UnixTime,
}

impl Presented<'_> {
    /// All of it, leaf first.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'_>> {
        let all = std::iter::once(self.leaf).chain(self.intermediates);
        all.map(|c| c.as_ref().into()).collect()
    }
}

/// Decides which peers a handshake accepts. Possession of the private key is verified separately
/// (CertificateVerify).
pub trait VerifyPeer: fmt::Debug + Send + Sync {
    /// Lets the peer pass, or says why not.
    ///
    /// # Errors
    /// What the peer is told, by an alert, and the log.
    fn verify(&self, peer: &Presented<'_>) -> Result<(), Error>;

    /// Whether a client must present something.
    fn demanded(&self) -> bool {
        true
    }

    /// The authorities that a client is told of.
    fn hints(&self) -> &[DistinguishedName] {
        &[]
    }
}

/// The refusal of an SVID, as rustls has refusals.
#[must_use]
pub fn refused(error: SvidError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// A verifier of either side for rustls.
#[derive(Debug)]
pub struct Verifier<V> {
    peer: V,
    provider: Arc<CryptoProvider>,
}

impl<V: VerifyPeer> Verifier<V> {
    /// Signatures are checked by this provider.
    #[must_use]
    pub fn new(peer: V, provider: Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(Self { peer, provider })
    }

    fn tls12(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Signed {
        verify_tls12_signature(message, cert, by, &self.provider.signature_verification_algorithms)
    }

    fn tls13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Signed {
        verify_tls13_signature(message, cert, by, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

type Signed = Result<HandshakeSignatureValid, Error>;

impl<V: VerifyPeer> ServerCertVerifier for Verifier<V> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        shown::note(leaf);
        let (name, purpose) = (Some(name), Purpose::Server);
        self.peer.verify(&Presented { leaf, intermediates, name, purpose, now })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Signed {
        self.tls12(message, cert, by)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Signed {
        self.tls13(message, cert, by)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl<V: VerifyPeer> ClientCertVerifier for Verifier<V> {
    fn client_auth_mandatory(&self) -> bool {
        self.peer.demanded()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.peer.hints()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        shown::note(leaf);
        let (name, purpose) = (None, Purpose::Client);
        self.peer.verify(&Presented { leaf, intermediates, name, purpose, now })?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Signed {
        self.tls12(message, cert, by)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Signed {
        self.tls13(message, cert, by)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// Accepts a peer whose chain leads to the bundle of its own trust domain and, when
/// `expected` is given, whose ID is one of those. Host names play no part (X509-SVID §5).
#[derive(Debug)]
pub struct SvidVerifier {
    /// By trust domain.
    pub bundles: Arc<BundleSet>,
    /// Who else would not do.
    pub expected: Option<Vec<SpiffeId>>,
}

impl VerifyPeer for SvidVerifier {
    fn verify(&self, peer: &Presented<'_>) -> Result<(), Error> {
        let presented = verify_svid(&peer.chain(), &self.bundles, peer.now, peer.purpose);
        let presented = presented.map_err(refused)?;
        match &self.expected {
            Some(expected) if !expected.contains(&presented) => {
                Err(refused(SvidError::Mismatch { presented, expected: expected.clone() }))
            }
            _ => Ok(()),
        }
    }
}
