//! What a service shows to its peers and what it checks theirs against, from wherever it comes;
//! replaced as a whole, and only by something that fits together.

mod files;
mod look;
mod workload_api;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use tokio::sync::{Semaphore, watch};

pub(super) use files::trusted;
pub use look::{Told, look};

use self::{
    files::{paths, read, unread},
    workload_api::{first_svid, of_svid},
};
use super::{
    PeerCert,
    acme::{AcmeConfig, Challenge, Renewal},
};
use crate::{
    credentials::{
        Credential, Source as _,
        workload_api::{Endpoint, WorkloadApi},
    },
    hbone::LocalIdentity,
    identity::PrivateKey,
    lifecycle::{Reminder, WatchedFile},
    observe::{Refusal, Refused},
    tls::{Ends, PeerTrust, Pin, StaleCrls, classic_provider},
};

/// Where a service's certificate, key and roots come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CredentialsConfig {
    /// Files.
    Files {
        /// Certificate and key; none shows nothing to peers (a client only).
        credential: Option<CredentialSource>,
        /// The password of a keystore, where it is not in a file.
        password: Option<Password>,
        /// The roots, PEM; none are the system's.
        roots: Option<PathBuf>,
        /// CRLs, PEM or DER.
        crls: Vec<PathBuf>,
        /// What a CRL past its nextUpdate means.
        stale: StaleCrls,
        /// Keys that are trusted instead of roots.
        pins: Vec<Pin>,
    },
    /// The SPIFFE Workload API: the default SVID and all bundles.
    WorkloadApi {
        /// Its socket.
        endpoint: Endpoint,
        /// How long the first SVID is waited for; `None` for ever.
        within: Option<Duration>,
        /// Whether our SVID is shown.
        shown: bool,
    },
}

impl CredentialsConfig {
    /// The files that are read.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        paths(self)
    }

    /// Whether the key is on a PKCS#11 token.
    #[must_use]
    pub fn on_token(&self) -> bool {
        matches!(self, Self::Files { credential: Some(CredentialSource::Token { .. }), .. })
    }

    /// What is ordered from an ACME CA, if anything is.
    #[must_use]
    pub fn acme(&self) -> Option<&AcmeConfig> {
        match self {
            Self::Files { credential: Some(CredentialSource::Acme(acme)), .. } => Some(acme),
            _ => None,
        }
    }
}

/// Certificate and key, and where they are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CredentialSource {
    /// Both in files.
    Files(Credential),
    /// Both from an ACME CA, kept in a file.
    Acme(AcmeConfig),
    /// The certificate in a file, its key on a PKCS#11 token.
    Token {
        /// The chain, leaf first, PEM.
        certificate: PathBuf,
        /// Where the key is.
        token: Token,
    },
}

/// A PKCS#11 token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token {
    /// The shared library that speaks with it.
    pub module: PathBuf,
    /// Its label; `None` if the module has one token only.
    pub label: Option<String>,
    /// The user's PIN, where it is not in a file.
    pub pin: Option<Password>,
    /// A file whose first line is the PIN.
    pub pin_file: Option<PathBuf>,
}

/// A password that is never shown.
#[derive(Clone, Eq, PartialEq)]
pub struct Password(pub zeroize::Zeroizing<String>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(redacted)")
    }
}

/// What a service shows and trusts at one moment.
#[derive(Debug)]
pub struct Credentials {
    /// What is shown to peers.
    pub key: Option<Arc<CertifiedKey>>,
    /// What theirs is checked against.
    pub trust: PeerTrust,
    /// What our own certificate says.
    pub own: Option<PeerCert>,
    /// The same as an X.509-SVID, with the bundles of whom it trusts, if it is one.
    pub svid: Option<LocalIdentity>,
    /// When it ends.
    pub not_after: Option<SystemTime>,
    /// Where it is from, for people.
    pub source: String,
    /// When roots and CRLs of files end.
    pub ends: Ends,
    /// Why nothing of it may be used any more, if its source has taken it back: new connections
    /// are refused.
    pub gone: Option<String>,
}

impl Credentials {
    /// The same where its source has taken back what is shown.
    fn without_identity(&self, why: &str) -> Self {
        Self {
            key: None,
            trust: self.trust.clone(),
            own: self.own.clone(),
            svid: None,
            not_after: None,
            source: self.source.clone(),
            ends: self.ends.clone(),
            gone: Some(why.to_owned()),
        }
    }
}

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
        let files = WatchedFile::of_all(paths(&config));
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
    pub(super) fn challenge(&self) -> Option<Arc<Challenge>> {
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

    /// Follows the source: changed files, a new SVID, a certificate that is due. Never returns.
    pub async fn follow(&self) {
        match &self.acme {
            None => self.follow_source().await,
            Some(acme) => {
                let failed = |why| {
                    *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                };
                tokio::join!(self.follow_source(), acme.follow(failed));
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
/// How long files may take to be read anew: one may have become a pipe.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// The key as rustls uses it, if it is that of the leaf.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKey,
) -> Result<Arc<CertifiedKey>, String> {
    let der = PrivateKeyDer::Pkcs8(key.pkcs8().into());
    let certified = CertifiedKey::from_der(chain, der.clone_key(), &classic_provider());
    certified.map(Arc::new).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => {
            "the private key is not that of the certificate".to_owned()
        }
        _ => "certificate and private key cannot be used for TLS".to_owned(),
    })
}
