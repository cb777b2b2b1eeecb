//! Certificates from an ACME CA (RFC 8555), proven by TLS-ALPN-01 (RFC 8737): the name's owner
//! answers a handshake on the very port that is to be certified.
//!
//! The certificate and its key are one PEM file in a [`storage`](Storage) folder, which is read and
//! watched like any other; so a restart orders nothing, and of several processes with one folder
//! one orders. At start, [`first`] answers challenges itself on the listener that nobody serves
//! yet; later the service does, while [`Renewal::pending`] says that one is expected.

mod challenge;
mod order;
mod storage;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder as _, ExponentialBuilder, Retryable as _};
use pki_types::DnsName;
use rand::Rng as _;

pub(super) use self::challenge::Challenge;
use self::storage::Storage;
use super::{Address, Listening};

/// Let's Encrypt's directory.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// How often it is looked whether a certificate is due.
pub const CHECK_EVERY: Duration = Duration::from_secs(600);
/// How long one order may take.
const ORDER_WITHIN: Duration = Duration::from_secs(180);
/// The longest pause after failures; CAs count them.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);

/// What is ordered, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcmeConfig {
    /// The name that is certified.
    pub name: String,
    /// Whom the CA may write to.
    pub email: Option<String>,
    /// The CA's directory, a URL.
    pub directory: String,
    /// Where accounts and certificates are kept.
    pub storage: PathBuf,
    /// How often it is looked whether the certificate is due.
    pub check_every: Duration,
    /// Challenges come to this port, where the service's own gets none.
    pub challenge_port: Option<u16>,
}

impl AcmeConfig {
    /// Whether it can be ordered.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        let name = self.name.as_str();
        if DnsName::try_from(name).is_err() || !name.contains('.') || name.contains('/') {
            return Err(format!("{name:?} is no name that a CA certifies, such as db.example.org"));
        }
        if !self.directory.starts_with("https://") {
            return Err(format!("the CA's directory {:?} must be an https:// URL", self.directory));
        }
        Ok(())
    }

    /// The port of the CA.
    #[must_use]
    pub fn port(&self) -> u16 {
        let url = self.directory.parse::<http::Uri>().ok();
        url.and_then(|url| url.port_u16()).unwrap_or(443)
    }

    /// The file with certificate and key.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        Storage::of(self).certificate
    }
}

/// Where accounts and certificates are kept if nobody says: under systemd's `StateDirectory=`, else
/// the user's own.
#[must_use]
pub fn default_storage() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(state) = of("STATE_DIRECTORY") {
        let state = state.to_string_lossy().into_owned();
        return Some(PathBuf::from(state.split(':').next().unwrap_or_default()).join("acme"));
    }
    let data = of("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| Some(PathBuf::from(of("HOME")?).join(".local/share")));
    Some(data?.join("adit/acme"))
}

/// Sees to it that there is a certificate, before anything is served: five attempts.
///
/// # Errors
/// What the CA said to the last of them.
///
/// # Cancel safety
/// Dropped, it leaves an order at the CA that nobody finishes.
pub(crate) async fn first(
    config: &AcmeConfig,
    listening: &Listening,
    proxy_header: bool,
) -> Result<(), String> {
    let renewal = Renewal::of(config.clone());
    if renewal.storage.until().is_some_and(|until| until > SystemTime::now()) {
        return Ok(());
    }
    tracing::info!(target: "svid", name = config.name, ca = config.directory, "ordering a certificate by ACME");
    let accepting = listening.accepting().map_err(|e| e.to_string())?;
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(5))
        .with_max_delay(Duration::from_secs(120))
        .with_max_times(4);
    let ordering = (|| renewal.order()).retry(pauses).notify(|error, pause| {
        tracing::warn!(target: "svid", name = config.name, error, ?pause, "no certificate by ACME yet");
    });
    tokio::select! {
        ordered = ordering => ordered,
        () = challenge::serve(&accepting, &renewal.pending, proxy_header) => {
            Err("challenges can be answered no more".into())
        }
    }
}

/// A certificate that is kept new.
pub(super) struct Renewal {
    config: AcmeConfig,
    storage: Storage,
    /// The challenge that is expected now.
    pub(super) pending: Arc<ArcSwapOption<Challenge>>,
}

impl Renewal {
    pub(super) fn of(config: AcmeConfig) -> Self {
        let storage = Storage::of(&config);
        Self { config, storage, pending: Arc::default() }
    }

    /// Orders the next certificate when two thirds of this one's life are over; `failed` is told
    /// why one has not come. Never returns.
    pub(super) async fn follow(&self, failed: impl Fn(String)) {
        let pauses = || {
            let pauses = ExponentialBuilder::default().with_min_delay(self.config.check_every);
            pauses.with_max_delay(LONGEST_PAUSE).without_max_times().build()
        };
        let mut after_failure = pauses();
        let mut pause = self.config.check_every;
        loop {
            // Many processes that started together do not stay together.
            let jitter = rand::rng().random_range(0.9..1.1);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
            pause = self.config.check_every;
            if !self.storage.due() {
                continue;
            }
            match self.order().await {
                Ok(()) => after_failure = pauses(),
                Err(error) => {
                    pause = after_failure.next().unwrap_or(LONGEST_PAUSE);
                    tracing::warn!(target: "svid", name = self.config.name, error, ?pause, "no new certificate by ACME; the old one stays");
                    failed(format!("ACME: {error}"));
                }
            }
        }
    }

    /// One order, unless another process has made it meanwhile.
    async fn order(&self) -> Result<(), String> {
        let ordered = async {
            let lock = self.storage.lock().await?;
            if !self.storage.due() {
                return Ok(());
            }
            // A port of its own for challenges answers them by itself.
            let own = self.config.challenge_port.map(|port| {
                let everywhere = Address::Tcp { host: String::new(), port };
                Listening::open(&everywhere)
            });
            let own = own.transpose().map_err(|e| format!("port for challenges: {e}"))?;
            let placing = order::place(&self.config, &self.storage, &self.pending);
            let pem = match own {
                None => placing.await,
                Some(own) => {
                    let accepting = own.accepting().map_err(|e| e.to_string())?;
                    tokio::select! {
                        placed = placing => placed,
                        () = challenge::serve(&accepting, &self.pending, false) => {
                            Err("challenges can be answered no more".into())
                        }
                    }
                }
            }?;
            self.storage.keep_certificate(&pem)?;
            drop(lock);
            tracing::info!(target: "svid", name = self.config.name, file = %crate::identity::shown(&self.storage.certificate), "certificate by ACME");
            Ok(())
        };
        let done = tokio::time::timeout(ORDER_WITHIN, ordered).await;
        self.pending.store(None);
        done.unwrap_or_else(|_| Err(format!("not done within {ORDER_WITHIN:?}")))
    }
}
