//! What a service shows in a tunnel.

use super::outcome::Outcome;
use crate::{credentials::store::Credentials, identity::LocalIdentity, net::CloseReason};

/// What is shown in a tunnel.
///
/// # Errors
/// The certificate is none for it.
pub(super) fn identity(credentials: &Credentials) -> Result<LocalIdentity, String> {
    if let Some(why) = &credentials.gone {
        return Err(why.clone());
    }
    credentials.svid.clone().ok_or_else(|| {
        format!(
            "{}: HBONE needs an X.509-SVID, a certificate with one spiffe:// URI, and its roots",
            credentials.source
        )
    })
}

pub(super) fn no_identity(why: String) -> Outcome {
    (CloseReason::NoIdentity, Some(why))
}
