//! What a failed call means, and what helps.

use tonic::{Code, Status};

use crate::credentials::grpc_status::said;

/// Whether the connection failed, not the server.
pub(super) fn is_broken(status: &Status) -> bool {
    let transport = std::error::Error::source(status).is_some();
    transport && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}

/// What a status says, and what helps a caller that shows an SVID, as hosts that joined do.
pub(super) fn said_to(status: &Status, shows_svid: bool) -> String {
    let cure = match status.code() {
        Code::Unauthenticated if shows_svid => {
            "; a host that joined shows its SVID to renew it and to receive bans, which needs \
             `attestors: { svid: true }` in the configuration of `adit ca serve`"
        }
        _ => "",
    };
    format!("{}{cure}", said(status))
}
