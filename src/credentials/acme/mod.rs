//! Certificates from an ACME CA (RFC 8555), proven by TLS-ALPN-01 (RFC 8737): the name's owner
//! answers a handshake on the very port that is to be certified.
//!
//! The certificate and its key are one PEM file in a [`storage`](Storage) folder, which is read and
//! watched like any other; so a restart orders nothing, and of several processes with one folder
//! one orders. Who takes the CA's calls asks [`Renewal::pending`] whether a challenge is expected.

mod challenge;
mod config;
#[cfg(feature = "acme")]
mod order;
#[cfg(not(feature = "acme"))]
#[path = "absent.rs"]
mod order;
mod storage;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::future::BoxFuture;
use rand::Rng as _;

use self::storage::Storage;
pub use self::{
    challenge::{Challenge, Pending},
    config::AcmeConfig,
};

/// Let's Encrypt's directory.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// How often it is looked whether a certificate is due.
pub const CHECK_EVERY: Duration = Duration::from_secs(600);
/// How long one order may take.
const ORDER_WITHIN: Duration = Duration::from_secs(180);
/// The longest pause after failures; CAs count them.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);

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

/// Answers challenges at a port of their own, on all addresses, until dropped; returns only why it
/// cannot.
pub type ServePort = for<'a> fn(u16, &'a Pending) -> BoxFuture<'a, String>;

/// A certificate that is kept new.
pub struct Renewal {
    config: AcmeConfig,
    storage: Storage,
    /// The challenge that is expected now.
    pub pending: Arc<Pending>,
}

impl Renewal {
    /// By this configuration; nothing is ordered yet.
    #[must_use]
    pub fn of(config: AcmeConfig) -> Self {
        let storage = Storage::of(&config);
        Self { config, storage, pending: Arc::default() }
    }

    /// Whether there is a certificate that has not ended.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.storage.until().is_some_and(|until| until > SystemTime::now())
    }

    /// Orders the next certificate when two thirds of this one's life are over; `failed` is told
    /// why one has not come. Never returns.
    pub(super) async fn follow(&self, port: ServePort, failed: impl Fn(String)) {
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
            match self.order(port).await {
                Ok(()) => after_failure = pauses(),
                Err(error) => {
                    pause = after_failure.next().unwrap_or(LONGEST_PAUSE);
                    tracing::warn!(
                        target: "svid", name = self.config.name, error, ?pause,
                        "no new certificate by ACME; keeping the previous one"
                    );
                    failed(format!("ACME: {error}"));
                }
            }
        }
    }

    /// One order, unless another process has made it meanwhile.
    ///
    /// # Errors
    /// What the CA said, or what is wrong here.
    ///
    /// # Cancel safety
    /// Dropped, it leaves an order at the CA that nobody finishes.
    pub async fn order(&self, port: ServePort) -> Result<(), String> {
        let ordered = async {
            let lock = self.storage.lock().await?;
            if !self.storage.due() {
                return Ok(());
            }
            let placing = order::place(&self.config, &self.storage, &self.pending);
            let pem = match self.config.challenge_port {
                None => placing.await,
                Some(own) => tokio::select! {
                    // Without it, nothing is ordered.
                    biased;
                    error = port(own, &self.pending) => Err(error),
                    placed = placing => placed,
                },
            }?;
            self.storage.keep_certificate(&pem)?;
            drop(lock);
            tracing::info!(
                target: "svid", name = self.config.name,
                file = %crate::identity::shown(&self.storage.certificate),
                "obtained a certificate by ACME"
            );
            Ok(())
        };
        let done = tokio::time::timeout(ORDER_WITHIN, ordered).await;
        self.pending.store(None);
        done.unwrap_or_else(|_| Err(format!("not done within {ORDER_WITHIN:?}")))
    }
}
