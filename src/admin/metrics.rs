//! `/metrics`: what is counted, written for whoever scrapes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ::http::StatusCode;
use bytes::Bytes;

use super::state::State;
use crate::{
    http::{Answer, answer, text},
    lifecycle::blocking,
};

/// Written once for all who asked before that began, and where nothing waits for it.
pub(super) async fn metrics(state: &Arc<State>) -> Answer {
    let asked = Instant::now();
    let mut last = state.metrics.lock().await;
    let text = match &*last {
        Some((begun, text)) if *begun >= asked => text.clone(),
        _ => {
            let (begun, of) = (Instant::now(), Arc::clone(state));
            let Ok(text) = blocking(move || Bytes::from(exposition(&of))).await else {
                return text(StatusCode::INTERNAL_SERVER_ERROR, "no metrics\n");
            };
            *last = Some((begun, text.clone()));
            text
        }
    };
    drop(last);
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

fn exposition(state: &State) -> String {
    let telemetry = &state.node.telemetry;
    let tasks = state.node.workers.iter().map(|w| w.metrics().num_alive_tasks());
    telemetry.metrics.process.alive_tasks.set(i64::try_from(tasks.sum::<usize>()).unwrap_or(0));
    let lost = i64::try_from(state.logging.dropped_lines()).unwrap_or(i64::MAX);
    telemetry.metrics.process.log_lines_dropped.set(lost);
    telemetry.metrics.config.rejected_files.set(i64::from(state.file.get().is_some()));
    set_outage_budget(state);
    telemetry.metrics.render(&telemetry.live)
}

/// No identities, no budget: a gauge of 0 would say that all have run out.
fn set_outage_budget(state: &State) {
    let gauge = &state.node.telemetry.metrics.credentials.outage_budget;
    gauge.reset();
    if let Some(seconds) = state.node.svids.outage_budget().seconds {
        gauge.with_label_values(&[] as &[&str]).set(Duration::from_secs(seconds).as_secs_f64());
    }
}
