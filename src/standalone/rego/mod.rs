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
    time::Duration,
};

use arc_swap::ArcSwap;
use regorus::{Engine, LimitError, utils::limits::ExecutionTimerConfig};

use super::{Judge, PeerCert};

/// The clock is looked at every so many steps of an evaluation.
const STEPS: NonZeroU32 = NonZeroU32::new(256).expect("not 0");
/// How long the query may take when it is only asked whether it is one.
const TRIED_FOR: Duration = Duration::from_millis(200);

/// A policy of one file and what is asked of it; replaced when the file changes.
pub struct Rego {
    file: PathBuf,
    query: String,
    within: Duration,
    engine: ArcSwap<Engine>,
}

impl std::fmt::Debug for Rego {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rego")
            .field("file", &self.file)
            .field("query", &self.query)
            .field("within", &self.within)
            .finish()
    }
}

impl Rego {
    /// Reads `file`: a bundle of Open Policy Agent (tar.gz), or one file of Rego (version 0, as
    /// ghostunnel reads it, unless it says `import rego.v1`). An evaluation of `query` may take
    /// `within`.
    ///
    /// # Errors
    /// What is wrong, and in which file.
    pub fn open(file: &Path, query: &str, within: Duration) -> Result<Self, String> {
        let engine = ArcSwap::from_pointee(read(file, query)?);
        Ok(Self { file: file.to_owned(), query: query.to_owned(), within, engine })
    }
}

impl Judge for Rego {
    fn allows(&self, peer: &PeerCert) -> Result<bool, String> {
        let mut engine = Engine::clone(&self.engine.load());
        engine.set_input(input::of(peer)?);
        engine.set_execution_timer_config(timer(self.within));
        asked(&mut engine, &self.query)
            .map_err(|e| format!("{}: {}", self.file.display(), told(&e)))
    }

    fn file(&self) -> &Path {
        &self.file
    }

    fn reload(&self) -> Result<(), String> {
        self.engine.store(read(&self.file, &self.query)?.into());
        Ok(())
    }
}

fn timer(limit: Duration) -> ExecutionTimerConfig {
    ExecutionTimerConfig { limit, check_interval: STEPS }
}

fn read(file: &Path, query: &str) -> Result<Engine, String> {
    let shown = file.display();
    let mut engine = bundle::load(file).map_err(|e| format!("{shown}: {e}"))?;
    let mut tried = engine.clone();
    tried.set_input(regorus::Value::new_object());
    tried.set_execution_timer_config(timer(TRIED_FOR));
    match asked(&mut tried, query) {
        Err(error) if !timed_out(&error) => {
            return Err(format!("{shown}: query {query:?}: {}", told(&error)));
        }
        _ => {}
    }
    engine = tried;
    engine.clear_execution_timer_config();
    Ok(engine)
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
        return format!("not decided within {limit:?}");
    }
    let text = format!("{error:#}");
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}
