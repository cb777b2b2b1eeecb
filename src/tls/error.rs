//! Why a handshake failed, and what that means for the record of the connection.

use std::time::Duration;

use rustls::CertificateError;

use super::roots::ChainRefusal;
use crate::{
    identity::{SvidError, alert_words, handshake_words},
    net::CloseReason,
};

/// A handshake that did not end in two proven identities.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer took too long.
    #[error("TLS handshake not finished after {0:?}")]
    Timeout(Duration),
    /// The caller ended before it said anything.
    #[error("the caller closed the connection before its ClientHello")]
    Silent,
    /// The peer presented no certificate.
    #[error("the peer presented no certificate; mutual TLS needs one on both sides")]
    NoPeerCertificate,
    /// The peer's certificate is not acceptable.
    #[error("the peer's X.509-SVID was refused: {0}")]
    Svid(SvidError),
    /// The peer's certificate was refused here by the rules that hold for any certificate.
    #[error("TLS handshake failed: {why}")]
    Certificate {
        /// What operators see.
        reason: CloseReason,
        /// What is wrong with it.
        why: String,
    },
    /// The peer ended the handshake with an alert.
    #[error("the peer ended the TLS handshake with alert {0}")]
    Alert(String),
    /// A client of PostgreSQL that asks first.
    #[error("received PostgreSQL's SSLRequest, which is not TLS")]
    SslRequest,
    /// The peer closed the connection.
    #[error("TLS handshake failed: closed during the handshake")]
    Closed,
    /// The peer reset the connection.
    #[error("TLS handshake failed: {0}")]
    Reset(String),
    /// The other end of a connection to an application's port agreed to no tunnel there (ALPN).
    #[error("TLS handshake failed: the other end does not accept tunnels on this port")]
    NotAtOriginalPort,
    /// Anything else: not TLS, a version or cipher that is not offered.
    #[error("TLS handshake failed: {0}")]
    Other(String),
    /// One of these, after the peer had shown a certificate.
    #[error("{error}; its certificate names {peer}")]
    Shown {
        /// Why.
        error: Box<TlsError>,
        /// Who the certificate says that it is.
        peer: Box<str>,
    },
    /// Our own SVID could not be made into a TLS configuration.
    #[error("our own SVID cannot be used for TLS: {0}")]
    OwnSvid(String),
}

impl TlsError {
    /// What operators see for this failure.
    #[must_use]
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Self::Timeout(_) => CloseReason::TlsTimeout,
            Self::Silent => CloseReason::Silent,
            Self::NoPeerCertificate => CloseReason::NoPeerCertificate,
            Self::Svid(error) => svid_close_reason(error),
            Self::Certificate { reason, .. } => *reason,
            Self::Alert(_)
            | Self::SslRequest
            | Self::Closed
            | Self::Reset(_)
            | Self::NotAtOriginalPort
            | Self::Other(_) => CloseReason::TlsFailure,
            Self::Shown { error, .. } => error.close_reason(),
            Self::OwnSvid(_) => CloseReason::NoIdentity,
        }
    }

    /// Whether it is the peer that refuses us, or what we have that is at fault: our own SVID, or
    /// what peers are judged by.
    #[must_use]
    pub fn is_about_us(&self) -> bool {
        match self {
            Self::Alert(_) | Self::OwnSvid(_) => true,
            Self::Svid(error) => {
                matches!(error, SvidError::Withheld(_) | SvidError::UnknownTrustDomain(_))
            }
            Self::Shown { error, .. } => error.is_about_us(),
            _ => false,
        }
    }

    /// This error with the name in the peer's certificate, if it does not say it already.
    pub(super) fn about(self, peer: Option<String>) -> Self {
        match peer {
            Some(peer) if !self.to_string().contains(&peer) => {
                Self::Shown { error: Box::new(self), peer: peer.into() }
            }
            _ => self,
        }
    }

    /// Finds the cause inside what rustls reports.
    #[must_use]
    pub fn from_rustls(error: rustls::Error) -> Self {
        match &error {
            rustls::Error::NoCertificatesPresented => Self::NoPeerCertificate,
            rustls::Error::NoApplicationProtocol => {
                Self::Other("the peer offers none of our protocols (ALPN)".into())
            }
            rustls::Error::AlertReceived(alert) => Self::Alert(alert_words(*alert)),
            rustls::Error::InvalidCertificate(cause) => match svid_error(cause) {
                Some(svid) => Self::Svid(svid.clone()),
                None => Self::Certificate {
                    reason: certificate_close_reason(cause),
                    why: handshake_words(&error),
                },
            },
            other => Self::Other(handshake_words(other)),
        }
    }
}

fn svid_close_reason(error: &SvidError) -> CloseReason {
    match error {
        SvidError::NoCertificate => CloseReason::NoPeerCertificate,
        SvidError::MultipleUriSans { .. } => CloseReason::MultipleUriSans,
        SvidError::CaAsLeaf => CloseReason::CaAsLeaf,
        SvidError::Expired { .. } | SvidError::NotYetValid { .. } => CloseReason::SvidExpired,
        SvidError::UnknownTrustDomain(_) => CloseReason::UnknownTrustDomain,
        SvidError::Untrusted(_) | SvidError::Withheld(_) => CloseReason::UntrustedSvid,
        SvidError::Revoked { .. } => CloseReason::SvidRevoked,
        SvidError::Mismatch { .. } => CloseReason::IdentityMismatch,
        _ => CloseReason::InvalidSvid,
    }
}

/// The broken rule for SVIDs, if it is one of those.
fn svid_error(error: &CertificateError) -> Option<&SvidError> {
    match error {
        CertificateError::Other(other) => other.0.downcast_ref(),
        _ => None,
    }
}

fn certificate_close_reason(error: &CertificateError) -> CloseReason {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => CloseReason::SvidExpired,
        CertificateError::Revoked => CloseReason::SvidRevoked,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CloseReason::IdentityMismatch
        }
        CertificateError::BadEncoding
        | CertificateError::UnhandledCriticalExtension
        | CertificateError::InvalidPurpose
        | CertificateError::InvalidPurposeContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            CloseReason::InvalidSvid
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<ChainRefusal>() {
            Some(refusal) => refusal.close_reason(),
            None => other.0.downcast_ref().map_or(CloseReason::UntrustedSvid, chain_close_reason),
        },
        // An unknown issuer, a signature or a key that does not match, a CRL that says nothing.
        _ => CloseReason::UntrustedSvid,
    }
}

fn chain_close_reason(error: &webpki::Error) -> CloseReason {
    use webpki::Error as Chain;
    match error {
        Chain::CaUsedAsEndEntity => CloseReason::CaAsLeaf,
        Chain::UnsupportedCertVersion
        | Chain::MalformedExtensions
        | Chain::ExtensionValueInvalid
        | Chain::InvalidCertValidity
        | Chain::EmptyEkuExtension
        | Chain::InvalidSerialNumber
        | Chain::SignatureAlgorithmMismatch
        | Chain::MalformedDnsIdentifier => CloseReason::InvalidSvid,
        _ => CloseReason::UntrustedSvid,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{AlertDescription, Error, OtherError, PeerIncompatible};

    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_told_apart_from_what_is_wrong_with_tls() {
        let webpki = |error: webpki::Error| CertificateError::Other(OtherError(Arc::new(error)));
        for (error, reason) in [
            (CertificateError::Expired.into(), CloseReason::SvidExpired),
            (CertificateError::NotValidYet.into(), CloseReason::SvidExpired),
            (CertificateError::UnknownIssuer.into(), CloseReason::UntrustedSvid),
            (CertificateError::BadSignature.into(), CloseReason::UntrustedSvid),
            (CertificateError::UnknownRevocationStatus.into(), CloseReason::UntrustedSvid),
            (CertificateError::ApplicationVerificationFailure.into(), CloseReason::UntrustedSvid),
            (CertificateError::NotValidForName.into(), CloseReason::IdentityMismatch),
            (CertificateError::Revoked.into(), CloseReason::SvidRevoked),
            (CertificateError::InvalidPurpose.into(), CloseReason::InvalidSvid),
            (webpki(webpki::Error::UnsupportedCertVersion).into(), CloseReason::InvalidSvid),
            (webpki(webpki::Error::CaUsedAsEndEntity).into(), CloseReason::CaAsLeaf),
            (webpki(webpki::Error::NameConstraintViolation).into(), CloseReason::UntrustedSvid),
            (ChainRefusal::Ca.into(), CloseReason::CaAsLeaf),
            (ChainRefusal::Usage("key usage", "x").into(), CloseReason::InvalidSvid),
            (Error::NoCertificatesPresented, CloseReason::NoPeerCertificate),
            (Error::AlertReceived(AlertDescription::UnknownCA), CloseReason::TlsFailure),
            (PeerIncompatible::NoCipherSuitesInCommon.into(), CloseReason::TlsFailure),
        ] {
            let found = TlsError::from_rustls(error);
            assert_eq!(found.close_reason(), reason, "{found}");
        }
    }
}
