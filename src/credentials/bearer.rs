//! The token in a file, as a header has it.

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

use super::dial;

/// The token as the file has it now.
///
/// # Errors
/// Says what is wrong with the file, and nothing of what is in it.
pub(crate) fn bearer(file: &Path) -> Result<MetadataValue<Ascii>, String> {
    let token = dial::read_small(file)
        .map(Zeroizing::new)
        .map_err(|e| format!("its token cannot be read: {e}"))?;
    let bad = |why: &str| format!("token file {} {why}", crate::identity::shown(file));
    let token = std::str::from_utf8(&token).map_err(|_| bad("is not text"))?.trim();
    if token.is_empty() {
        return Err(bad("is empty"));
    }
    let header = Zeroizing::new(format!("Bearer {token}"));
    let mut value: MetadataValue<Ascii> =
        header.parse().map_err(|_| bad("has more than one line, or what is not ASCII"))?;
    value.set_sensitive(true);
    Ok(value)
}
