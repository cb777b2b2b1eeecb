//! Join tokens, for hosts without Kubernetes: a secret that gives one SVID, once.
//!
//! In its folder a token is a file named by the SHA-256 of the secret; the secret itself is
//! nowhere. Using it renames `.token` to `.used` and syncs the folder before anything is issued,
//! so neither a second caller nor a crash brings it back.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    credentials::dial,
    identity::{SpiffeId, shown},
    sys::files,
};

/// What a join token begins with.
pub(super) const PREFIX: &str = "adit-join.";
/// A token that is out of date is kept this long, so that a late caller learns why.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
const ENTROPY: usize = 32;

/// Why a join token gives nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JoinError {
    /// It has not the shape.
    #[error("this is not a join token")]
    Malformed,
    /// Nobody made it, or long ago.
    #[error("no such join token")]
    Unknown,
    /// It has given its SVID.
    #[error("the join token was used before")]
    Replayed,
    /// Too late.
    #[error("the join token expired {} ago", crate::identity::length(*.0))]
    Expired(u64),
    /// The folder does not work.
    #[error("join token directory: {0}")]
    Folder(String),
}

/// What a file of the folder says.
#[derive(Deserialize, Serialize)]
struct Written {
    id: String,
    /// Unix seconds.
    expires: u64,
}

/// The folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JoinTokens {
    /// Where the tokens are.
    pub dir: PathBuf,
}

/// A token that may be used.
pub(super) struct Valid {
    /// Whose it is.
    pub(super) id: SpiffeId,
    name: String,
}

impl JoinTokens {
    /// Makes a token for one SVID of `id`.
    ///
    /// # Errors
    /// Names the folder or the file.
    pub fn create(&self, id: &SpiffeId, ttl: Duration) -> io::Result<Zeroizing<String>> {
        fs::create_dir_all(&self.dir).map_err(|e| self.say(&e))?;
        self.prune();
        let mut secret = Zeroizing::new([0_u8; ENTROPY]);
        rand::Rng::fill(&mut rand::rng(), &mut *secret);
        let expires = unix(SystemTime::now() + ttl);
        let text = serde_json::to_vec(&Written { id: id.to_string(), expires })?;
        let name = hashed(&*secret);
        files::replace(&self.token(&name), &text, 0o600).map_err(|e| self.say(&e))?;
        Ok(Zeroizing::new(format!("{PREFIX}{}", BASE64.encode(secret.as_slice()))))
    }

    /// Looks a token up; it can still be used after.
    pub(super) fn look_up(&self, token: &str, now: SystemTime) -> Result<Valid, JoinError> {
        let text = token.strip_prefix(PREFIX).ok_or(JoinError::Malformed)?;
        let mut secret = Zeroizing::new([0_u8; ENTROPY]);
        let length = BASE64.decode_slice(text, &mut *secret).map_err(|_| JoinError::Malformed)?;
        if length != ENTROPY {
            return Err(JoinError::Malformed);
        }
        let name = hashed(&*secret);
        let read = match dial::read_small(&self.token(&name)) {
            Ok(read) => read,
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(JoinError::Folder(e.to_string()));
            }
            Err(_) if self.used(&name).exists() => return Err(JoinError::Replayed),
            Err(_) => return Err(JoinError::Unknown),
        };
        let bad = |e: &dyn std::fmt::Display| JoinError::Folder(format!("{name}.token: {e}"));
        let written: Written =
            serde_json::from_slice(&read).map_err(|_| bad(&"is damaged; make another token"))?;
        let now = unix(now);
        if written.expires <= now {
            return Err(JoinError::Expired(now - written.expires));
        }
        Ok(Valid { id: written.id.parse().map_err(|e| bad(&e))?, name })
    }

    /// Uses a token up, for good: of several at once, one does.
    pub(super) fn consume(&self, valid: &Valid) -> Result<(), JoinError> {
        match fs::rename(self.token(&valid.name), self.used(&valid.name)) {
            Ok(()) => self.sync().map_err(|e| JoinError::Folder(self.say(&e).to_string())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(JoinError::Replayed),
            Err(e) => Err(JoinError::Folder(self.say(&e).to_string())),
        }
    }

    fn token(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.token"))
    }

    fn used(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.used"))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn say(&self, e: &io::Error) -> io::Error {
        io::Error::new(e.kind(), format!("{}: {e}", shown(&self.dir)))
    }

    /// Removes what expired long ago. Best effort.
    fn prune(&self) {
        let now = unix(SystemTime::now());
        let old = |path: &Path| {
            let read = dial::read_small(path).ok()?;
            let written: Written = serde_json::from_slice(&read).ok()?;
            (written.expires + KEPT.as_secs() < now).then_some(())
        };
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if old(&entry.path()).is_some() {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn hashed(secret: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_serves_once_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = JoinTokens { dir: dir.path().join("tokens") };
        let id: SpiffeId = "spiffe://td/host/a".parse().unwrap();
        let token = tokens.create(&id, Duration::from_secs(60)).unwrap();
        let now = SystemTime::now();
        let (one, two) =
            (tokens.look_up(&token, now).unwrap(), tokens.look_up(&token, now).unwrap());
        assert_eq!(one.id, id);
        assert_eq!(
            (tokens.consume(&one), tokens.consume(&two)),
            (Ok(()), Err(JoinError::Replayed))
        );
        let again = JoinTokens { dir: tokens.dir.clone() };
        assert_eq!(again.look_up(&token, now).err(), Some(JoinError::Replayed));
        let files = fs::read_dir(&tokens.dir).unwrap().flatten();
        for file in files {
            let text = fs::read_to_string(file.path()).unwrap();
            assert!(!text.contains(&token[PREFIX.len()..]) && !token.contains(&text));
        }
    }

    #[test]
    fn what_is_no_token_of_ours_gives_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = JoinTokens { dir: dir.path().into() };
        let id: SpiffeId = "spiffe://td/host/a".parse().unwrap();
        let token = tokens.create(&id, Duration::from_secs(60)).unwrap();
        let later = SystemTime::now() + Duration::from_secs(90);
        assert!(matches!(tokens.look_up(&token, later), Err(JoinError::Expired(_))));
        let stranger = format!("{PREFIX}{}", BASE64.encode([7; ENTROPY]));
        let long = format!("{PREFIX}{}", BASE64.encode([7; 33]));
        for (token, error) in [
            (stranger.as_str(), JoinError::Unknown),
            (long.as_str(), JoinError::Malformed),
            ("adit-join.", JoinError::Malformed),
            ("adit-join.../../etc/passwd", JoinError::Malformed),
            ("Bearer", JoinError::Malformed),
        ] {
            assert_eq!(tokens.look_up(token, SystemTime::now()).err(), Some(error), "{token}");
        }
    }
}
