//! What is shown to the CA.

use tonic::metadata::{Ascii, MetadataValue};

/// Whether it is one of `adit ca serve`'s that serve once.
pub(super) fn is_join_token(bearer: &MetadataValue<Ascii>) -> bool {
    bearer.as_encoded_bytes().starts_with(b"Bearer adit-join.")
}
