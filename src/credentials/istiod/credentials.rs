//! What is shown to the CA.

use tonic::metadata::{Ascii, MetadataValue};

use super::IstiodConfig;
use crate::credentials::bearer;

/// The token as the file has it now.
///
/// # Errors
/// Says what is wrong with the file, and nothing of what is in it.
pub(super) fn bearer(config: &IstiodConfig) -> Result<MetadataValue<Ascii>, String> {
    bearer::bearer(&config.token)
}

/// Whether it is one of `adit ca serve`'s that serve once.
pub(super) fn is_join_token(bearer: &MetadataValue<Ascii>) -> bool {
    bearer.as_encoded_bytes().starts_with(b"Bearer adit-join.")
}
