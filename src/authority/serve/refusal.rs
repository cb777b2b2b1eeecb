//! Why the CA server issues nothing: for the caller, the log and the metric.

use tonic::{Code, Status, metadata::MetadataValue};

use super::{authorize::NotYours, csr::CsrError, join::JoinError, token::TokenError};
use crate::{
    authority::CaError,
    identity::SvidError,
    rpc::{BANNED, JOIN_TOKEN_REFUSED},
};

/// Why a call gets no certificate.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CaRefusal {
    /// It shows nothing that is looked at here.
    #[error("the caller has no credentials that this CA accepts: {0}")]
    NoCredentials(&'static str),
    /// A service-account token that is not taken.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A join token that is not taken.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A client certificate that is not a valid SVID of ours any more.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// It proves who it is, and asks for somebody else.
    #[error(transparent)]
    NotYours(#[from] NotYours),
    /// `ImpersonatedIdentity` is not a SPIFFE ID.
    #[error("ImpersonatedIdentity: {0}")]
    Wanted(String),
    /// A CSR that is not certified.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The caller asks too often.
    #[error("too many requests; slow down")]
    RateLimited,
    /// Too many calls at once.
    #[error("too many calls at once; try again")]
    Busy,
    /// The CA cannot sign.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl CaRefusal {
    /// The log's and the metric's word for it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials(_) => "no_credentials",
            Self::Token(token) => match token {
                TokenError::Malformed(_) => "token_malformed",
                TokenError::UnknownKey(_) => "token_unknown_key",
                TokenError::Signature => "token_bad_signature",
                TokenError::Issuer(_) => "token_wrong_issuer",
                TokenError::Audience(_) => "token_wrong_audience",
                TokenError::Expired(_) => "token_expired",
                TokenError::NotYet(_) => "token_not_yet_valid",
                TokenError::Unbound => "token_unbound",
                TokenError::NoKeys(_) => "token_no_keys",
                TokenError::Rejected(_) => "token_rejected",
                TokenError::NoReview(_) => "token_no_review",
            },
            Self::Join(join) => match join {
                JoinError::Malformed => "join_token_malformed",
                JoinError::Unknown => "join_token_unknown",
                JoinError::Replayed => "join_token_replayed",
                JoinError::Expired(_) => "join_token_expired",
                JoinError::Folder(_) => "join_token_folder",
            },
            Self::Svid(_) => "svid_not_valid",
            Self::NotYours(not) => match not {
                NotYours::TrustDomain(_) => "other_trust_domain",
                NotYours::Another(_) => "other_identity",
                NotYours::StalePod => "stale_pod",
                NotYours::NodeUnknown => "node_unknown",
                NotYours::OtherNode(_) => "other_node",
            },
            Self::Wanted(_) => "no_spiffe_id",
            Self::Csr(csr) => match csr {
                CsrError::Malformed(_) => "csr_malformed",
                CsrError::Signature => "csr_bad_signature",
                CsrError::Key => "csr_key",
                CsrError::OtherName(_) => "csr_other_name",
            },
            Self::RateLimited => "rate_limited",
            Self::Busy => "busy",
            Self::Ca(CaError::Banned(_)) => "banned",
            Self::Ca(CaError::NotOurs { .. }) => "other_trust_domain",
            Self::Ca(_) => "ca_failed",
        }
    }

    /// The gRPC status: whether it is worth trying again is in the code.
    #[must_use]
    pub fn status(&self) -> Status {
        let code = match self {
            Self::Token(TokenError::NoKeys(_) | TokenError::NoReview(_))
            | Self::Join(JoinError::Folder(_))
            | Self::Ca(CaError::File { .. } | CaError::Step(_) | CaError::Sign(_)) => {
                Code::Unavailable
            }
            Self::NoCredentials(_) | Self::Token(_) | Self::Join(_) | Self::Svid(_) => {
                Code::Unauthenticated
            }
            Self::NotYours(_) => Code::PermissionDenied,
            // An operator's word, and no fault that passes.
            Self::Ca(CaError::Banned(_) | CaError::NotOurs { .. }) => Code::PermissionDenied,
            Self::Wanted(_) | Self::Csr(_) => Code::InvalidArgument,
            Self::RateLimited | Self::Busy => Code::ResourceExhausted,
        };
        // What is wrong inside the CA is for its log.
        let message = match self {
            Self::Ca(CaError::File { .. } | CaError::Step(_) | CaError::Sign(_)) => {
                "the CA cannot sign now; see its log".to_owned()
            }
            other => other.to_string(),
        };
        let mut status = Status::new(code, message);
        // Nodes take this for a ban, and no text.
        if let Self::Ca(CaError::Banned(id)) = self
            && let Ok(id) = id.as_str().parse()
        {
            status.metadata_mut().insert(BANNED, id);
        }
        // Hosts say what helps, which is another token.
        if let (Self::Join(_), Code::Unauthenticated) = (self, code) {
            status.metadata_mut().insert(JOIN_TOKEN_REFUSED, MetadataValue::from_static("1"));
        }
        status
    }
}
