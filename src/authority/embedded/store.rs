//! The CA's directory: locked, read, and written so that a crash at any point leaves the state
//! before or the state after. Files that no state names are leftovers of a crash, and are swept.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    error::CaError,
    state::{CaState, VERSION},
};
use crate::sys::files;

/// The certificate of the first authority of a directory, also of one that an older adit made.
pub(super) const ROOT: &str = "root.pem";
/// The private key of the first authority of a directory.
pub(super) const KEY: &str = "root-key.pem";
/// The state of the authorities.
pub(super) const STATE: &str = "authorities.json";
const LOCK: &str = ".lock";
/// How long another process may hold the directory.
const PATIENCE: Duration = Duration::from_secs(5);
/// No file here is larger, but for the record of what was issued.
const LARGEST: u64 = 16 << 20;

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) dir: PathBuf,
}

/// Held while the directory is read (many) or written (one); let go when dropped.
#[must_use]
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Store {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Nobody else reads or writes until this is dropped.
    pub(super) fn lock(&self) -> Result<Lock, CaError> {
        self.locked(File::try_lock)
    }

    /// Nobody writes until this is dropped.
    pub(super) fn lock_shared(&self) -> Result<Lock, CaError> {
        self.locked(File::try_lock_shared)
    }

    fn locked(&self, attempt: fn(&File) -> Result<(), fs::TryLockError>) -> Result<Lock, CaError> {
        let path = self.path(LOCK);
        let file = files::open_or_make(&path, OpenOptions::new().write(true))
            .map_err(|e| CaError::io(&path, &e, "cannot be opened"))?;
        let start = Instant::now();
        loop {
            match attempt(&file) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(fs::TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(fs::TryLockError::WouldBlock) => {
                    let why = "another process has held the lock for 5 s; `fuser` shows which";
                    return Err(CaError::file(path, why));
                }
                Err(fs::TryLockError::Error(e)) => {
                    return Err(CaError::io(path, &e, "cannot be locked"));
                }
            }
        }
    }

    /// The state, if there is one.
    pub(super) fn read(&self) -> Result<Option<CaState>, CaError> {
        let path = self.path(STATE);
        if !path.exists() {
            return Ok(None);
        }
        let text = self.text(STATE)?;
        let bad = |why: String| CaError::file(&path, why);
        let parsed: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| bad(format!("is not JSON; restore it from a backup: {e}")))?;
        match parsed["version"].as_u64() {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => {
                let why = format!(
                    "has version {version}, but this adit knows only {VERSION}: run a newer \
                         adit"
                );
                return Err(bad(why));
            }
            None => return Err(bad("has no version; restore it from a backup".into())),
        }
        let state: CaState = serde_json::from_value(parsed)
            .map_err(|e| bad(format!("is damaged; restore it from a backup: {e}")))?;
        for authority in state.x509.iter().chain(&state.jwt) {
            for name in authority.certificate.iter().chain([&authority.key]) {
                if name.is_empty() || name.contains('/') || name.starts_with('.') {
                    return Err(bad(format!("names {name}, which is not in the directory")));
                }
            }
        }
        Ok(Some(state))
    }

    /// The state from now on. Needs the exclusive lock.
    pub(super) fn write(&self, _lock: &Lock, state: &CaState) -> Result<(), CaError> {
        let text = serde_json::to_vec_pretty(state).map_err(|e| CaError::Sign(e.to_string()))?;
        if text.len() as u64 >= LARGEST {
            // It could not be read again.
            let why = "would be larger than 16 MiB, so it was not changed: lift some bans";
            return Err(CaError::file(self.path(STATE), why));
        }
        self.write_atomically(STATE, &text, 0o644)
    }

    /// Removes what no state names: a crash left it. Needs the exclusive lock.
    pub(super) fn sweep(&self, _lock: &Lock, state: &CaState) {
        let named = |name: &str| {
            let all = state.x509.iter().chain(&state.jwt);
            all.flat_map(|a| a.certificate.iter().chain([&a.key])).any(|n| n == name)
        };
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let ours = name.starts_with("x509-") || name.starts_with("jwt-");
            let root = name == ROOT || name == KEY;
            let temporary = name.ends_with(".adit-tmp");
            if (ours && name.ends_with(".pem") || root || temporary) && !named(name) {
                tracing::info!(
                    file = %entry.path().display(),
                    "removed a file that no authority needs"
                );
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The text of a file that we wrote, if it is not absurdly large.
    pub(super) fn text(&self, name: &str) -> Result<String, CaError> {
        let path = self.path(name);
        let (mut text, mut options) = (String::new(), OpenOptions::new());
        files::own(&path, options.read(true))
            .and_then(|f| f.take(LARGEST).read_to_string(&mut text))
            .map_err(|e| CaError::io(&path, &e, "cannot be read"))?;
        Ok(text)
    }

    /// Another content for a file: the old or the new, whenever the machine stops.
    pub(super) fn write_atomically(
        &self,
        name: &str,
        text: &[u8],
        mode: u32,
    ) -> Result<(), CaError> {
        let path = self.path(name);
        let written = files::replace(&path, text, mode);
        written.map_err(|e| CaError::io(&path, &e, "cannot be written"))
    }
}

/// A file's text, if it is not absurdly large.
pub(super) fn read(path: &Path) -> Result<String, CaError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|f| f.take(LARGEST + 1).read_to_string(&mut text))
        .map_err(|e| CaError::io(path, &e, "cannot be read"))?;
    if text.len() as u64 > LARGEST {
        return Err(CaError::file(path, format!("is larger than {LARGEST} bytes")));
    }
    Ok(text)
}
