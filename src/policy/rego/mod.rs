//! Access by a Rego policy, as Open Policy Agent evaluates it: the Rust implementation `regorus`,
//! without functions that reach out (no `http.send`).
//!
//! The policy sees `input.certificate`, the leaf as Go writes an `x509.Certificate` (`input`), and
//! `input.spiffe_id` where the peer has one. It admits if the query has one result, which is
//! `true` and binds no variable.

mod bundle;
mod input;

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use regorus::{Engine, LimitError, Value, utils::limits::ExecutionTimerConfig};
use tokio::sync::Semaphore;

use crate::{identity::PeerCert, lifecycle::blocking, observe::Refusal};

/// The clock is looked at every so many steps of an evaluation.
const STEPS: NonZeroU32 = NonZeroU32::new(256).expect("not 0");
/// How long the query may take when it is only asked whether it is one.
const TRIED_FOR: Duration = Duration::from_millis(200);

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
        read(&self.file, &self.query).map(drop)
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
        let engine = ArcSwap::from_pointee(read(&config.file, &config.query)?);
        let turns = Arc::new(Semaphore::new(MOST));
        Ok(Self { config: config.clone(), engine, refusal: Refusal::default(), turns })
    }

    /// Reads the file again, to [`replace`](Self::replace) what is in use.
    ///
    /// # Errors
    /// As [`RegoConfig::check`].
    pub fn read(&self) -> Result<Engine, String> {
        read(&self.config.file, &self.config.query)
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
        let mut engine = Engine::clone(&self.engine.load());
        engine.set_input(input::of(peer)?);
        engine.set_execution_timer_config(timer(within));
        asked(&mut engine, &self.config.query)
            .map_err(|e| format!("{}: {}", crate::identity::shown(&self.config.file), told(&e)))
    }
}

fn timer(limit: Duration) -> ExecutionTimerConfig {
    ExecutionTimerConfig { limit, check_interval: STEPS }
}

/// The policy, compiled, once the query has been put to it.
fn read(file: &Path, query: &str) -> Result<Engine, String> {
    let shown = crate::identity::shown(file);
    let mut engine = bundle::load(file).map_err(|e| format!("{shown}: {e}"))?;
    engine.set_input(Value::new_object());
    engine.set_execution_timer_config(timer(TRIED_FOR));
    match asked(&mut engine, query) {
        Err(error) if !timed_out(&error) => {
            Err(format!("{shown}: query {query:?}: {}", told(&error)))
        }
        _ => Ok(engine),
    }
}

fn timed_out(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LimitError::TimeLimitExceeded { .. }))
}

/// One result, `true`, no bindings: what Go's `rego.ResultSet.Allowed` asks for.
fn asked(engine: &mut Engine, query: &str) -> anyhow::Result<bool> {
    let found = engine.eval_query(query.to_owned(), false)?;
    let [one] = found.result.as_slice() else { return Ok(false) };
    let unbound = one.bindings.as_object().is_ok_and(|bound| bound.is_empty());
    let [expression] = one.expressions.as_slice() else { return Ok(false) };
    Ok(unbound && matches!(expression.value.as_bool(), Ok(true)))
}

/// Errors of regorus are drawings of several lines; a log has one.
fn told(error: &anyhow::Error) -> String {
    if let Some(LimitError::TimeLimitExceeded { limit, .. }) = error.downcast_ref() {
        return format!("no decision within {limit:?}");
    }
    let text = format!("{error:#}");
    let text = crate::identity::without_keys(&text);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}
