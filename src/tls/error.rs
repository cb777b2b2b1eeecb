//! Why a handshake failed, and what that means for the record of the connection.

use std::time::Duration;

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

    /// The same with whom the peer's certificate names, if it does not say so already.
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
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
                let cause: &(dyn std::error::Error + 'static) = other.0.as_ref();
                match cause.downcast_ref::<SvidError>() {
                    Some(svid) => Self::Svid(svid.clone()),
                    None => Self::Other(handshake_words(&error)),
                }
            }
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
