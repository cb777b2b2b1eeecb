//! Access by a Rego policy, as Open Policy Agent evaluates it: the Rust implementation `regorus`,
//! without functions that reach out (no `http.send`).
//!
//! The policy sees `input.certificate`, the leaf as Go writes an `x509.Certificate` (`engine::input`), and
//! `input.spiffe_id` where the peer has one. It admits if the query has one result, which is
//! `true` and binds no variable.

#[cfg(feature = "rego")]
mod engine;
#[cfg(not(feature = "rego"))]
#[path = "absent.rs"]
mod engine;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use self::engine::Engine;
use crate::{identity::PeerCert, lifecycle::blocking, observe::Refusal};

/// How many decisions one service makes at once. One that has begun keeps its thread although its
/// caller has gone.
const MOST: usize = 16;
/// How many all services make at once: fewer than there are threads for what takes long
/// ([`blocking`]), where names are looked up too.
static ALL: Semaphore = Semaphore::const_new(48);

/// A policy as configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RegoConfig {
    /// A bundle of Open Policy Agent (tar.gz), or one file of Rego (version 0, as ghostunnel reads
    /// it, unless it says `import rego.v1`).
    pub file: PathBuf,
    /// What is asked of it.
    pub query: String,
    /// How long a decision may take.
    pub within: Duration,
}

impl RegoConfig {
    /// Whether the file can be read and the query be put to it.
    ///
    /// # Errors
    /// What is wrong, and in which file.
    pub fn check(&self) -> Result<(), String> {
        Engine::read(&self.file, &self.query).map(drop)
    }
}

/// A policy in use; replaced when its file changes.
pub struct Rego {
    config: RegoConfig,
    engine: ArcSwap<Engine>,
    /// Whether what was read last is in use.
    pub refusal: Refusal,
    turns: Arc<Semaphore>,
}

impl Rego {
    /// Reads the file.
    ///
    /// # Errors
    /// As [`RegoConfig::check`].
    pub fn open(config: &RegoConfig) -> Result<Self, String> {
        let engine = ArcSwap::from_pointee(Engine::read(&config.file, &config.query)?);
        let turns = Arc::new(Semaphore::new(MOST));
        Ok(Self { config: config.clone(), engine, refusal: Refusal::default(), turns })
    }

    /// Reads the file again, to [`replace`](Self::replace) what is in use.
    ///
    /// # Errors
    /// As [`RegoConfig::check`].
    pub fn read(&self) -> Result<Engine, String> {
        Engine::read(&self.config.file, &self.config.query)
    }

    /// From now on this policy.
    pub fn replace(&self, engine: Engine) {
        self.engine.store(engine.into());
    }

    /// Whether the peer may pass, decided on a thread where it keeps no data worker waiting; the
    /// time in which others had their turn counts.
    ///
    /// # Errors
    /// Why it cannot be decided: the peer is refused.
    ///
    /// # Cancel safety
    /// Dropping the future leaves what has begun to come to its end, within its time.
    pub async fn allows(self: &Arc<Self>, peer: Arc<PeerCert>) -> Result<bool, String> {
        let begun = Instant::now();
        let gone = |_| "adit is shutting down".to_owned();
        let own = Arc::clone(&self.turns).acquire_owned().await.map_err(gone)?;
        let turn = (own, ALL.acquire().await.map_err(gone)?);
        let rego = Arc::clone(self);
        let decided = blocking(move || {
            let decided = rego.decide(&peer, rego.config.within.saturating_sub(begun.elapsed()));
            drop(turn);
            decided
        });
        decided.await.map_err(|e| e.to_string())?
    }

    fn decide(&self, peer: &PeerCert, within: Duration) -> Result<bool, String> {
        let decided = self.engine.load().decide(peer, &self.config.query, within);
        decided.map_err(|why| format!("{}: {why}", crate::identity::shown(&self.config.file)))
    }
}
