//! A policy that `regorus` evaluates.

mod bundle;
mod input;

use std::{num::NonZeroU32, path::Path, time::Duration};

use regorus::{LimitError, Value, utils::limits::ExecutionTimerConfig};

use crate::identity::{PeerCert, shown, without_keys};

/// The clock is looked at every so many steps of an evaluation.
const STEPS: NonZeroU32 = NonZeroU32::new(256).expect("not 0");
/// How long the query may take when it is only asked whether it is one.
const TRIED_FOR: Duration = Duration::from_millis(200);

/// A policy, compiled.
pub struct Engine(regorus::Engine);

impl Engine {
    /// Reads a file, and puts the query to what is in it.
    pub(super) fn read(file: &Path, query: &str) -> Result<Self, String> {
        let shown = shown(file);
        let mut engine = bundle::load(file).map_err(|e| format!("{shown}: {e}"))?;
        engine.set_input(Value::new_object());
        engine.set_execution_timer_config(timer(TRIED_FOR));
        match asked(&mut engine, query) {
            Err(error) if !timed_out(&error) => {
                Err(format!("{shown}: query {query:?}: {}", told(&error)))
            }
            _ => Ok(Self(engine)),
        }
    }

    /// Whether the query admits this peer.
    pub(super) fn decide(
        &self,
        peer: &PeerCert,
        query: &str,
        within: Duration,
    ) -> Result<bool, String> {
        let mut engine = self.0.clone();
        engine.set_input(input::of(peer)?);
        engine.set_execution_timer_config(timer(within));
        asked(&mut engine, query).map_err(|e| told(&e))
    }
}

fn timer(limit: Duration) -> ExecutionTimerConfig {
    ExecutionTimerConfig { limit, check_interval: STEPS }
}

fn timed_out(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LimitError::TimeLimitExceeded { .. }))
}

/// One result, `true`, no bindings: what Go's `rego.ResultSet.Allowed` asks for.
fn asked(engine: &mut regorus::Engine, query: &str) -> anyhow::Result<bool> {
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
    let text = without_keys(&text);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}
