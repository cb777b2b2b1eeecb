//! `/metrics`: what is counted, written for whoever scrapes, in the format that it asks for.

use std::{
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use ::http::{HeaderValue, Request, StatusCode, header};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use super::{form::Form, state::State};
use crate::{
    http::{Answer, answer, text},
    lifecycle::blocking,
};

/// Written once for all who asked before that began, in the same form, and where nothing waits for
/// it.
pub(super) async fn metrics(state: &Arc<State>, request: &Request<Bytes>) -> Answer {
    let (asked, form) = (Instant::now(), Form::asked(request.headers()));
    let mut last = state.metrics.lock().await;
    let body = match &last.0 {
        Some((begun, of, body)) if *begun >= asked && *of == form => body.clone(),
        _ => {
            let (begun, of) = (Instant::now(), Arc::clone(state));
            let Ok(Some(body)) = blocking(move || written(&of, form)).await else {
                return text(StatusCode::INTERNAL_SERVER_ERROR, "no metrics\n");
            };
            last.0 = Some((begun, form, body.clone()));
            body
        }
    };
    drop(last);
    let mut answer = answer(StatusCode::OK, form.content_type(), body);
    if form.gzip {
        let gzip = HeaderValue::from_static("gzip");
        answer.headers_mut().insert(header::CONTENT_ENCODING, gzip);
    }
    answer
}

fn written(state: &State, form: Form) -> Option<Bytes> {
    refresh(state);
    let telemetry = &state.node.telemetry;
    let text = match form.open_metrics {
        true => telemetry.metrics.render_open_metrics(&telemetry.live),
        false => telemetry.metrics.render(&telemetry.live),
    };
    if !form.gzip {
        return Some(text.into());
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text.as_bytes()).ok()?;
    gzip.finish().ok().map(Into::into)
}

/// What is not counted where it happens.
fn refresh(state: &State) {
    let telemetry = &state.node.telemetry;
    telemetry.metrics.runtime.refresh(state.node.workers.iter().map(|worker| worker.metrics()));
    let ejected = state.node.endpoints.now(Instant::now()).len();
    telemetry.metrics.endpoints.ejected.set(i64::try_from(ejected).unwrap_or(i64::MAX));
    let lost = i64::try_from(state.logging.dropped_lines()).unwrap_or(i64::MAX);
    telemetry.metrics.process.log_lines_dropped.set(lost);
    telemetry.metrics.config.rejected_files.set(i64::from(state.file.get().is_some()));
    set_outage_budget(state);
}

/// No identities, no budget: a gauge of 0 would say that all have run out.
fn set_outage_budget(state: &State) {
    let gauge = &state.node.telemetry.metrics.credentials.outage_budget;
    gauge.reset();
    if let Some(seconds) = state.node.svids.outage_budget().seconds {
        gauge.with_label_values(&[] as &[&str]).set(Duration::from_secs(seconds).as_secs_f64());
    }
}
