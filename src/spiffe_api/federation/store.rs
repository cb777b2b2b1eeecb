//! The last good bundles on disk, so that a restart while an endpoint is down trusts what was
//! trusted, and a sequence does not go back across it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    document,
    error::{FetchError, MOST_BYTES},
};
use crate::{
    identity::{TrustBundle, TrustDomain},
    sys::files,
};

/// The longest file that is read: the longest answer, indented.
const MOST_FILE: usize = 2 * MOST_BYTES;

/// A directory with one file per trust domain.
#[derive(Clone, Debug)]
pub(super) struct Store(PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    trust_domain: String,
    /// What the operator said of the endpoint: what was fetched from another is not taken.
    endpoint: String,
    bundle: Value,
}

impl Store {
    pub(super) fn new(dir: &Path) -> Self {
        Self(dir.into())
    }

    fn path(&self, trust_domain: &TrustDomain) -> PathBuf {
        self.0.join(format!("{trust_domain}.json"))
    }

    /// What was last kept for this endpoint of this trust domain.
    pub(super) fn load(
        &self,
        trust_domain: &TrustDomain,
        endpoint: &str,
    ) -> Result<Option<TrustBundle>, FetchError> {
        let path = self.path(trust_domain);
        let bad = |why: String| FetchError::File { path: path.clone(), why };
        let meta = match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            meta => meta.map_err(|e| bad(e.to_string()))?,
        };
        if meta.permissions().mode() & 0o022 != 0 {
            return Err(bad("users other than its owner can write it; not used".into()));
        }
        let text = read_bounded(&path)?;
        let stored: Stored = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        if stored.trust_domain != trust_domain.as_str() || stored.endpoint != endpoint {
            return Ok(None);
        }
        let bundle = stored.bundle.to_string();
        document::read(trust_domain, bundle.as_bytes()).map(Some).map_err(|e| bad(e.to_string()))
    }

    /// Keeps a bundle: whole or not at all.
    pub(super) fn keep(&self, endpoint: &str, bundle: &TrustBundle) -> Result<(), FetchError> {
        let path = self.path(&bundle.trust_domain);
        let stored = Stored {
            trust_domain: bundle.trust_domain.to_string(),
            endpoint: endpoint.into(),
            bundle: bundle.to_document(),
        };
        let text = serde_json::to_vec_pretty(&stored).map_err(|e| FetchError::file(&path, e))?;
        self.write(&path, &text).map_err(|e| FetchError::file(&path, e))
    }

    fn write(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        files::replace(path, text, 0o600)
    }

    /// Forgets a trust domain that is no longer named.
    pub(super) fn forget(&self, trust_domain: &TrustDomain) {
        let path = self.path(trust_domain);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(
                    target: "federation", path = %path.display(), error = %e,
                    "a stored bundle cannot be removed"
                );
            }
            _ => {}
        }
    }
}

/// A file that an operator or we wrote, up to a limit.
pub(super) fn read_bounded(path: &Path) -> Result<Vec<u8>, FetchError> {
    use io::Read;
    let bad = |e: io::Error| FetchError::file(path, e);
    let mut text = Vec::new();
    let file = File::open(path).map_err(bad)?;
    file.take(MOST_FILE as u64 + 1).read_to_end(&mut text).map_err(bad)?;
    match text.len() > MOST_FILE {
        true => Err(FetchError::file(path, format!("is longer than {MOST_FILE} bytes"))),
        false => Ok(text),
    }
}
