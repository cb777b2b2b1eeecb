//! Why a call of the Workload API gave nothing, and whether another may help.

use std::time::Duration;

use tonic::{Code, Status};

use crate::credentials::grpc_status::said;

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// What the server, or the connection to it, said.
    #[error("{}: {}", code_name(.0.code()), said(.0))]
    Status(Box<Status>),
    /// The server ended the stream without a reason.
    #[error("the server ended the stream")]
    Ended,
    /// The answer breaks a rule, and all of it is discarded (Workload API §4.5).
    #[error("the answer was rejected: {0}")]
    Unusable(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Slow(Duration),
}

impl ClientError {
    /// Whether trying again, after a while, may help (Workload Endpoint §6).
    #[must_use]
    pub fn retry(&self) -> bool {
        match self {
            Self::Status(status) => {
                !matches!(status.code(), Code::InvalidArgument | Code::Unimplemented)
            }
            Self::Ended | Self::Slow(_) | Self::Unusable(_) => true,
        }
    }

    /// Whether the server says that the caller has no identity, or none any more: what was
    /// received must not be used further (Workload API §5.2.1).
    #[must_use]
    pub fn denied(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::PermissionDenied)
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// The name of a code as the specification writes it.
#[must_use]
pub fn code_name(code: Code) -> String {
    format!("{code:?}")
}
