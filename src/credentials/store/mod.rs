//! What a service shows to its peers and what it checks theirs against, from wherever it comes;
//! replaced as a whole, and only by something that fits together.

mod config;
mod credentials;
mod files;
mod look;
mod workload_api;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use pki_types::UnixTime;
use tokio::sync::{Semaphore, watch};

pub use config::{CredentialSource, CredentialsConfig, Password, Token};
pub use credentials::Credentials;
pub use look::{Told, look};

use self::{
    files::{READ_WITHIN, read, unread},
    workload_api::{first_svid, of_svid},
};
use super::{
    Source as _,
    acme::{Challenge, Renewal, ServePort},
    workload_api::WorkloadApi,
};
use crate::{
    lifecycle::{Reminder, WatchedFile},
    observe::{Refusal, Refused},
};

/// Keeps the credentials of one service up to date.
pub struct CredentialStore {
    config: CredentialsConfig,
    now: watch::Sender<Arc<Credentials>>,
    /// Why the last attempt failed, if it did.
    error: Mutex<Option<String>>,
    /// When what is in use was obtained.
    obtained: Mutex<SystemTime>,
    workload_api: Option<WorkloadApi>,
    acme: Option<Renewal>,
    reading: Arc<Semaphore>,
    /// The files before they were first read.
    files: WatchedFile,
    /// Whether what was read last of them is in use.
    refusal: Refusal,
}

impl CredentialStore {
    /// Obtains the first credentials.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub async fn open(config: CredentialsConfig) -> Result<Arc<Self>, String> {
        // Before they are read: what changes from here on is seen.
        let files = WatchedFile::of_all(config.files());
        let (material, workload_api) = match &config {
            CredentialsConfig::Files { .. } => (read(&config, None).await?, None),
            CredentialsConfig::WorkloadApi { endpoint, within, shown } => {
                let api = WorkloadApi::follow(endpoint);
                let from = endpoint.to_string();
                let first = first_svid(&api, *shown, &from);
                let first = match within {
                    None => first.await,
                    Some(limit) => tokio::time::timeout(*limit, first).await.map_err(|_| {
                        let why =
                            api.default_svid().err().map_or(String::new(), |e| format!(": {e}"));
                        format!("no SVID from {endpoint} within {limit:?}{why}")
                    })?,
                };
                (first, Some(api))
            }
        };
        let now = watch::Sender::new(Arc::new(material));
        let reading = Arc::new(Semaphore::new(1));
        let (error, obtained) = (Mutex::default(), Mutex::new(SystemTime::now()));
        let acme = config.acme().cloned().map(Renewal::of);
        let refusal = Refusal::default();
        Ok(Arc::new(Self {
            config,
            now,
            error,
            obtained,
            workload_api,
            acme,
            reading,
            files,
            refusal,
        }))
    }

    /// What is in use.
    #[must_use]
    pub fn current(&self) -> Arc<Credentials> {
        Arc::clone(&self.now.borrow())
    }

    /// The ACME challenge that is expected now.
    #[must_use]
    pub fn challenge(&self) -> Option<Arc<Challenge>> {
        self.acme.as_ref()?.pending.load_full()
    }

    /// Told of every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Credentials>> {
        self.now.subscribe()
    }

    /// Why the last attempt to renew it failed, if it did.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why what is in its files is not what is in use, if so.
    #[must_use]
    pub fn refused(&self) -> Option<Refused> {
        self.refusal.get()
    }

    /// When what is in use was obtained.
    #[must_use]
    pub fn obtained(&self) -> SystemTime {
        *self.obtained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, material: Credentials) {
        self.now.send_replace(Arc::new(material));
        *self.obtained.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
    }

    /// Reads the files again; what is wrong changes nothing. Nothing to do for a source that
    /// tells of news by itself.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub async fn reload(&self) -> Result<(), String> {
        if self.workload_api.is_some() {
            return Ok(());
        }
        // One at a time: a file that cannot be read to its end holds one thread, not one each time.
        let read = async {
            let turn =
                Arc::clone(&self.reading).acquire_owned().await.map_err(|e| e.to_string())?;
            let before = self.files.versions();
            let read = read(&self.config, Some(turn)).await?;
            match self.files.versions() == before {
                true => Ok(read),
                false => Err("files were written while they were read".to_owned()),
            }
        };
        let read = match tokio::time::timeout(READ_WITHIN, read).await {
            Ok(read) => read,
            Err(_) => Err(unread(&self.config)),
        };
        let read = read.and_then(|new| {
            // Those of the system, taken away under us.
            match self.current().trust.is_empty() || !new.trust.is_empty() {
                true => Ok(new),
                false => Err("the system has no trusted roots any more".into()),
            }
        });
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(material) => {
                *error = None;
                self.take(material);
                self.refusal.taken();
                Ok(())
            }
            Err(why) => {
                *error = Some(why.clone());
                self.refusal.refused(&why);
                Err(why)
            }
        }
    }

    /// Follows the source: changed files, a new SVID, a certificate that is due. Challenges that
    /// have a port of their own are answered by `port`. Never returns.
    pub async fn follow(&self, port: ServePort) {
        match &self.acme {
            None => self.follow_source().await,
            Some(acme) => {
                let failed = |why| {
                    *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                };
                tokio::join!(self.follow_source(), acme.follow(port, failed));
            }
        }
    }

    /// Warns of roots and CRLs that end soon, or have ended.
    fn remind(&self, reminder: &mut Reminder<Vec<String>>) {
        let soon = self.now.borrow().ends.soon(UnixTime::now());
        if !reminder.due(&soon, Instant::now()) {
            return;
        }
        let CredentialsConfig::Files { stale, .. } = &self.config else { return };
        for text in soon {
            tracing::warn!(target: "svid", ?stale, "{text}");
        }
    }

    /// The source has given something, which is used if it can be.
    fn given(&self, made: Result<Credentials, String>) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(material) => {
                if self.now.borrow().gone.is_some() {
                    tracing::info!(target: "svid", source = material.source, "an SVID was given again and is used");
                }
                self.take(material);
                *error = None;
            }
            Err(why) => {
                if error.as_ref() != Some(&why) {
                    tracing::warn!(target: "svid", error = why, "what the Workload API gave is not used");
                }
                *error = Some(why);
            }
        }
    }

    /// The source has taken back what it gave: new connections are refused until it gives again.
    fn taken_back(&self, why: &str) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        let first = self.now.send_if_modified(|now| {
            let first = now.gone.is_none();
            if first {
                *now = Arc::new(now.without_identity(why));
            }
            first
        });
        if first {
            let source = &self.current().source;
            tracing::warn!(target: "svid", source, error = why, "the SVID was taken back: new connections are refused");
        }
    }

    async fn follow_source(&self) {
        match (&self.config, &self.workload_api) {
            (CredentialsConfig::WorkloadApi { endpoint, shown, .. }, Some(api)) => {
                let (from, mut seen, mut bundles) = (endpoint.to_string(), 0, api.bundles());
                loop {
                    tokio::select! {
                        () = api.news(&mut seen) => {}
                        // Whom to believe no more is told before the SVIDs have settled.
                        Ok(()) = bundles.changed() => {}
                    }
                    let trusted = bundles.borrow_and_update().clone();
                    match api.default_svid() {
                        Ok(svid) => self.given(of_svid(svid, &trusted, *shown, &from)),
                        // There was one, and its failures leave it: it was taken back.
                        Err(error) => self.taken_back(&error.to_string()),
                    }
                }
            }
            _ => {
                let mut files = self.files.clone();
                let mut reminder = Reminder::default();
                loop {
                    self.remind(&mut reminder);
                    tokio::time::sleep(LOOK_EVERY).await;
                    if !files.has_settled() {
                        continue;
                    }
                    let before = files.versions();
                    let read = self.reload().await;
                    if !files.take(before) {
                        continue; // written while they were read: a later look takes them
                    }
                    match read {
                        Ok(()) => {
                            tracing::info!(target: "svid", "files have changed and were read")
                        }
                        Err(error) => {
                            tracing::warn!(target: "svid", error, "files have changed and are not taken; what was read before stays")
                        }
                    }
                }
            }
        }
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(500);
