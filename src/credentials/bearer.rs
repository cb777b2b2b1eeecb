//! A bearer token, as a header has it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

use super::dial;
use crate::identity::secret_file;

/// Where a bearer token is.
#[derive(Clone, Eq, PartialEq)]
pub enum AuthToken {
    /// In a file, which is read for each call.
    File(PathBuf),
    /// Here.
    Text(Zeroizing<String>),
}

impl fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "AuthToken({})", secret_file("`token`", path)),
            Self::Text(_) => f.write_str("AuthToken(redacted)"),
        }
    }
}

impl AuthToken {
    /// The file that it is in, if it is in one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Text(_) => None,
        }
    }

    /// The value of the header `authorization`, by the token as it is now.
    ///
    /// # Errors
    /// Says what is wrong with it, and nothing of what is in it.
    pub(crate) fn bearer(&self) -> Result<MetadataValue<Ascii>, String> {
        match self {
            Self::File(path) => bearer(path),
            Self::Text(token) => header(token, "the token"),
        }
    }
}

/// The token as the file has it now.
///
/// # Errors
/// Says what is wrong with the file, and nothing of what is in it.
pub(crate) fn bearer(file: &Path) -> Result<MetadataValue<Ascii>, String> {
    let named = || match secret_file("`token`", file) {
        key if key.starts_with("the file") => key,
        path => format!("token file {path}"),
    };
    let token = dial::read_unnamed(file).map(Zeroizing::new);
    let token = token.map_err(|e| format!("{} cannot be read: {e}", named()))?;
    let text = std::str::from_utf8(&token).map_err(|_| format!("{} is not text", named()))?;
    header(text, &named())
}

fn header(token: &str, named: &str) -> Result<MetadataValue<Ascii>, String> {
    let token = token.trim();
    if token.is_empty() {
        return Err(format!("{named} is empty"));
    }
    let header = Zeroizing::new(format!("Bearer {token}"));
    let mut value: MetadataValue<Ascii> = header
        .parse()
        .map_err(|_| format!("{named} has more than one line, or characters that are not ASCII"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_place_of_the_path_of_its_file_is_not_told() {
        let refused = bearer(Path::new("adit-join.c2VjcmV0")).unwrap_err();
        assert!(refused.starts_with("the file that `token` names cannot be read: "), "{refused}");
        let refused = bearer(Path::new("/none/token")).unwrap_err();
        assert!(refused.starts_with("token file /none/token cannot be read: "), "{refused}");
    }

    #[test]
    fn a_token_is_shown_as_a_header_without_its_end_of_line_and_never_printed() {
        let token = AuthToken::Text(Zeroizing::new("a-token\n".into()));
        assert_eq!(token.bearer().unwrap().as_encoded_bytes(), b"Bearer a-token");
        assert_eq!(format!("{token:?} {:?}", token.bearer()), "AuthToken(redacted) Ok(Sensitive)");
        for (text, error) in [(" \n", "is empty"), ("a\nb", "more than one line")] {
            let refused = AuthToken::Text(Zeroizing::new(text.into())).bearer().unwrap_err();
            assert!(refused.contains(error), "{refused}");
        }
    }
}
