//! What a service shows to its peers and what it checks theirs against, from wherever it comes;
//! replaced as a whole, and only by something that fits together.

mod acme;
mod config;
mod credentials;
mod files;
mod look;
mod provider;
mod workload_api;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use pki_types::UnixTime;
use tokio::sync::watch;

pub use config::{CredentialSource, CredentialsConfig, Password, Token};
pub use credentials::Credentials;
pub use look::{Findings, look};

use self::{
    acme::AcmeProvider,
    files::FileProvider,
    provider::{CredentialProvider, Update},
    workload_api::WorkloadApiProvider,
};
use super::acme::{Challenge, ServePort};
use crate::{
    lifecycle::Reminder,
    observe::{Refusal, Refused},
};

/// Keeps the credentials of one service up to date.
pub struct CredentialStore {
    config: CredentialsConfig,
    provider: Box<dyn CredentialProvider>,
    now: watch::Sender<Arc<Credentials>>,
    /// Why the last attempt failed, if it did.
    error: Mutex<Option<String>>,
    /// When what is in use was obtained.
    obtained: Mutex<SystemTime>,
    /// Whether what was read last of files is in use.
    refusal: Refusal,
}

/// The provider of a configuration, with what it gave first.
async fn opened(
    config: &CredentialsConfig,
) -> Result<(Box<dyn CredentialProvider>, Credentials), String> {
    if let CredentialsConfig::WorkloadApi { endpoint, within, shown } = config {
        let (api, first) = WorkloadApiProvider::open(endpoint, *within, *shown).await?;
        return Ok((Box::new(api), first));
    }
    let (files, first) = FileProvider::open(config.clone()).await?;
    match config.acme() {
        Some(acme) => Ok((Box::new(AcmeProvider::new(files, acme.clone())), first)),
        None => Ok((Box::new(files), first)),
    }
}

impl CredentialStore {
    /// Obtains the first credentials.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub async fn open(config: CredentialsConfig) -> Result<Arc<Self>, String> {
        let (provider, first) = opened(&config).await?;
        let now = watch::Sender::new(Arc::new(first));
        let (error, obtained) = (Mutex::default(), Mutex::new(SystemTime::now()));
        let refusal = Refusal::default();
        Ok(Arc::new(Self { config, provider, now, error, obtained, refusal }))
    }

    /// What is in use.
    #[must_use]
    pub fn current(&self) -> Arc<Credentials> {
        Arc::clone(&self.now.borrow())
    }

    /// The ACME challenge that is expected now.
    #[must_use]
    pub fn challenge(&self) -> Option<Arc<Challenge>> {
        self.provider.challenge()
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

    /// Reads the files again; what is wrong changes nothing. Nothing to do for a provider that
    /// tells of news by itself.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub async fn reload(&self) -> Result<(), String> {
        match self.provider.reload().await {
            None => Ok(()),
            Some(Ok(new)) => {
                self.take(Update::Given(Arc::new(new)));
                Ok(())
            }
            Some(Err(why)) => {
                self.take(Update::Refused(why.clone()));
                Err(why)
            }
        }
    }

    /// Follows the provider: changed files, a new SVID, a certificate that is due. Challenges that
    /// have a port of their own are answered by `port`. Never returns.
    pub async fn follow(&self, port: ServePort) {
        let tell = |update| self.take(update);
        tokio::join!(self.provider.follow(port, &tell), self.remind());
    }

    fn take(&self, update: Update) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        *error = match update {
            Update::Given(new) => {
                self.give(new);
                None
            }
            Update::Refused(why) => {
                self.refusal.refused(&why);
                Some(why)
            }
            Update::Failed(why) => Some(why),
            Update::TakenBack(why) => {
                self.take_back(&why);
                Some(why)
            }
        };
    }

    fn give(&self, new: Arc<Credentials>) {
        if self.now.borrow().gone.is_some() {
            tracing::info!(
                target: "svid", source = new.source,
                "an SVID is available again: new connections are accepted"
            );
        }
        self.now.send_replace(new);
        *self.obtained.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
        self.refusal.taken();
    }

    /// New connections are refused until something is given again.
    fn take_back(&self, why: &str) {
        let first = self.now.send_if_modified(|now| {
            let first = now.gone.is_none();
            if first {
                *now = Arc::new(now.without_identity(why));
            }
            first
        });
        if first {
            let source = &self.current().source;
            tracing::warn!(
                target: "svid", source, error = why,
                "the SVID was withdrawn: new connections are refused"
            );
        }
    }

    /// Warns of roots, CRLs and certificates of files that end soon, or have ended; returns for other
    /// providers only.
    async fn remind(&self) {
        let CredentialsConfig::Files { stale, crls, .. } = &self.config else { return };
        let stale = (!crls.is_empty()).then(|| tracing::field::display(stale));
        let mut reminder = Reminder::default();
        loop {
            let soon = self.now.borrow().ends.soon(UnixTime::now());
            if reminder.due(&soon, Instant::now()) {
                for text in soon {
                    tracing::warn!(target: "svid", stale, "{text}");
                }
            }
            tokio::time::sleep(REMIND_EVERY).await;
        }
    }
}

/// How often it is looked whether something ends soon.
const REMIND_EVERY: Duration = Duration::from_millis(500);
