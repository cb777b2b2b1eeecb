//! What a failed call means, and what helps.

use std::path::Path;

use tonic::{Code, Status};

use crate::{
    credentials::grpc_status::said,
    identity::{SpiffeId, secret_file},
    rpc::JOIN_TOKEN_REFUSED,
};

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

/// Whether the CA refused a join token for what it is, so that another one helps.
pub(super) fn wants_join_token(status: &Status) -> bool {
    status.metadata().contains_key(JOIN_TOKEN_REFUSED)
}

/// How to make another join token for `id`, and the `file` that it belongs in.
pub(super) fn new_join_token(id: &SpiffeId, file: Option<&Path>) -> String {
    let file = secret_file("`token`", file.unwrap_or(Path::new("")));
    format!(
        "a join token serves once, so a restart needs a new one: run `adit ca token create --dir DIR \
         --id {id}` on the machine of the CA (DIR is `attestors.joinTokens.dir` of its file), and \
         write what it prints into {file}"
    )
}
