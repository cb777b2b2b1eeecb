//! The keys that sign service-account tokens: a JWKS from a file or a URL. The last good set
//! stays when a newer one cannot be fetched.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use serde_json::Value;

use super::{https::Endpoint, token::TokenError};
use crate::{credentials::dial, lifecycle::WatchedFile};

/// How many keys are taken.
const MOST: usize = 64;
/// A URL is not asked more often than this, whatever callers show.
const SELDOM: Duration = Duration::from_secs(10);
/// A set from a URL is used this long before it is asked for again.
const FRESH: Duration = Duration::from_secs(300);

/// Where the keys are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeysFrom {
    /// Read again when it changes.
    File(PathBuf),
    /// Asked when a token has a `kid` that is not known, and now and then.
    Url(Endpoint),
}

type KeySet = HashMap<String, Jwk>;

#[derive(Default)]
struct CachedKeys {
    keys: KeySet,
    error: Option<String>,
    asked: Option<Instant>,
}

/// The keys.
pub(super) struct TokenKeys {
    from: KeysFrom,
    /// The file, if they are in one.
    file: Option<Mutex<WatchedFile>>,
    cached: Mutex<CachedKeys>,
    /// Held by the one that asks a URL; who has a known key does not wait for it.
    asking: tokio::sync::Mutex<()>,
}

impl TokenKeys {
    pub(super) fn new(from: KeysFrom) -> Self {
        let file = match &from {
            KeysFrom::File(path) => Some(Mutex::new(WatchedFile::unread(vec![path.clone()]))),
            KeysFrom::Url(_) => None,
        };
        Self { from, file, cached: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, CachedKeys> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of this `kid`.
    pub(super) async fn find(&self, kid: &str) -> Result<Jwk, TokenError> {
        match &self.from {
            KeysFrom::File(path) => self.read_changed(path),
            KeysFrom::Url(endpoint) => self.refresh(endpoint, kid).await,
        }
        let cached = self.lock();
        match (cached.keys.get(kid), &cached.error) {
            (Some(key), _) => Ok(key.clone()),
            (None, Some(error)) if cached.keys.is_empty() => Err(TokenError::NoKeys(error.clone())),
            (None, _) => Err(TokenError::UnknownKey(kid.to_owned())),
        }
    }

    /// Reads the file if it has changed; what is written while it is read, at the next call.
    fn read_changed(&self, path: &Path) {
        let Some(file) = &self.file else { return };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if !file.has_changed() {
            return;
        }
        let read = || dial::read_small(path).map_err(|e| e.to_string());
        if let Some(read) = file.read(read) {
            self.lock().take(read.and_then(|json| parse(&json)));
        }
    }

    async fn refresh(&self, endpoint: &Endpoint, kid: &str) {
        let (due, known) = {
            let cached = self.lock();
            (cached.is_due(kid), cached.keys.contains_key(kid))
        };
        if !due {
            return;
        }
        let _asking = if known {
            let Ok(asking) = self.asking.try_lock() else { return };
            asking
        } else {
            self.asking.lock().await
        };
        if !self.lock().is_due(kid) {
            return; // somebody else has asked meanwhile
        }
        self.lock().asked = Some(Instant::now());
        let answer = endpoint.ask(None, None).await;
        self.lock().take(answer.and_then(|json| parse(&json)));
    }
}

impl CachedKeys {
    fn is_due(&self, kid: &str) -> bool {
        let due = if self.keys.contains_key(kid) { FRESH } else { SELDOM };
        self.asked.is_none_or(|at| at.elapsed() >= due)
    }

    fn take(&mut self, read: Result<KeySet, String>) {
        match read {
            Ok(keys) => (self.keys, self.error) = (keys, None),
            Err(error) => {
                tracing::warn!(target: "ca", error, "JWKS not updated; keeping the previous one");
                self.error = Some(error);
            }
        }
    }
}

/// The keys of a JWKS that sign; those that cannot be read are left out.
fn parse(json: &[u8]) -> Result<KeySet, String> {
    let whole: Value = serde_json::from_slice(json).map_err(|e| format!("not a JWKS: {e}"))?;
    let keys = whole.get("keys").and_then(Value::as_array).ok_or("not a JWKS: it has no `keys`")?;
    if keys.len() > MOST {
        return Err(format!("the JWKS has {} keys, the limit is {MOST}", keys.len()));
    }
    let mut set = KeySet::new();
    for key in keys {
        let Ok(key) = serde_json::from_value::<Jwk>(key.clone()) else { continue };
        let signs = matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature));
        if let Some(kid) = key.common.key_id.clone().filter(|_| signs)
            && set.insert(kid.clone(), key).is_some()
        {
            return Err(format!("the JWKS has two keys with kid {kid:?}"));
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","use":"sig","x":"AA"},
        {"kty":"what","kid":"b"},{"kty":"OKP","crv":"Ed25519","kid":"c","use":"enc","x":"AA"}]}"#;

    #[tokio::test]
    async fn a_file_is_read_again_when_it_changes_and_the_last_good_set_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("jwks");
        let keys = TokenKeys::new(KeysFrom::File(file.clone()));
        assert!(matches!(keys.find("a").await, Err(TokenError::NoKeys(_))));
        std::fs::write(&file, ONE).unwrap();
        assert!(keys.find("a").await.is_ok());
        assert_eq!(keys.find("c").await.unwrap_err(), TokenError::UnknownKey("c".into()));
        std::fs::write(&file, "half").unwrap();
        assert!(keys.find("a").await.is_ok());
        std::fs::write(&file, r#"{"keys":[]}"#).unwrap();
        assert_eq!(keys.find("a").await.unwrap_err(), TokenError::UnknownKey("a".into()));
    }

    #[test]
    fn two_keys_of_one_kid_are_none() {
        let twice =
            ONE.replace("\"b\"", "\"a\"").replace("what", "OKP\",\"crv\":\"Ed25519\",\"x\":\"BB");
        assert!(parse(twice.as_bytes()).unwrap_err().contains("two keys"));
    }
}
