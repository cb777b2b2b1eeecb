//! A folder per CA: the account, a certificate with its key per name, and a lock.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use x509_parser::prelude::{FromDer, X509Certificate};

use super::config::AcmeConfig;
use crate::{
    identity::key_files::{at, certificates},
    sys::files,
};

/// How often a lock that somebody holds is tried again.
const TRY_EVERY: Duration = Duration::from_millis(200);

pub(super) struct Storage {
    pub(super) folder: PathBuf,
    pub(super) certificate: PathBuf,
}

impl Storage {
    pub(super) fn of(config: &AcmeConfig) -> Self {
        let (folder, certificate) = (config.folder(), config.file());
        Self { folder, certificate }
    }

    /// When the certificate ends, if there is one that can be read.
    pub(super) fn until(&self) -> Option<SystemTime> {
        self.life().map(|(_, until)| until)
    }

    /// Whether there is none, or two thirds of its life are over.
    pub(super) fn due(&self) -> bool {
        let Some((from, until)) = self.life() else { return true };
        let life = until.duration_since(from).unwrap_or_default();
        SystemTime::now() >= from + life * 2 / 3
    }

    fn life(&self) -> Option<(SystemTime, SystemTime)> {
        let chain = certificates(&self.certificate).ok()?;
        let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
        let time =
            |at: i64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(at.try_into().ok()?));
        let validity = leaf.validity();
        Some((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
    }

    /// Held while something is ordered; ends with the process at the latest.
    pub(super) async fn lock(&self) -> Result<File, String> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|e| at(&self.folder, e))?;
        let path = self.folder.join("lock");
        let opened = files::open_or_make(&path, OpenOptions::new().write(true));
        let file = opened.map_err(|e| at(&path, e))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(TRY_EVERY).await,
                Err(fs::TryLockError::Error(e)) => return Err(at(&path, e)),
            }
        }
    }

    pub(super) fn keep_certificate(&self, pem: &str) -> Result<(), String> {
        self.keep(&self.certificate, pem.as_bytes())
    }

    /// Whole or not at all, for us alone.
    pub(super) fn keep(&self, path: &Path, text: &[u8]) -> Result<(), String> {
        files::replace(path, text, 0o600).map_err(|e| at(path, e))
    }
}
