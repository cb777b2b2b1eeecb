//! What `POST` changes.

use ::http::{Method, Request, StatusCode};
use bytes::Bytes;

use super::state::{Source, State};
use crate::http::{Answer, query, text};

pub(super) fn rotate(state: &State, request: &Request<Bytes>) -> Answer {
    let id = query(request, "id").and_then(|id| id.parse().ok());
    match id.map(|id| state.node.svids.rotate_now(&id)) {
        Some(true) => text(StatusCode::OK, "renewing\n"),
        Some(false) => {
            text(StatusCode::NOT_FOUND, "this id is not an identity of this node; see /certs\n")
        }
        None => text(StatusCode::BAD_REQUEST, "?id= must be a SPIFFE ID\n"),
    }
}

pub(super) fn refresh(state: &State, request: &Request<Bytes>) -> Answer {
    let Source::File(federation) = &state.source else {
        return text(StatusCode::NOT_FOUND, "this node has no federation\n");
    };
    let trust_domain = query(request, "trustDomain").and_then(|td| td.parse().ok());
    match trust_domain.map(|td| federation.refresh_now(&td)) {
        Some(true) => text(StatusCode::OK, "asking\n"),
        Some(false) => {
            text(StatusCode::NOT_FOUND, "the mesh file has no such trust domain; see /federation\n")
        }
        None => text(StatusCode::BAD_REQUEST, "?trustDomain= must be a trust domain\n"),
    }
}

/// Shows the log filter, or changes it: `?level=` adds to it, `?reset` restores the default first.
pub(super) fn logging(state: &State, request: &Request<Bytes>) -> Answer {
    if request.method() != Method::POST {
        return text(StatusCode::OK, format!("{}\n", state.logging.filter()));
    }
    let (mut level, mut reset) = (None, false);
    let query = request.uri().query().unwrap_or_default();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "level" => level = Some(value),
            "reset" => reset = true,
            _ => {}
        }
    }
    let level = level.unwrap_or_default();
    match state.logging.add_filter(&level, reset) {
        Ok(()) => {
            let filter = state.logging.filter();
            text(StatusCode::OK, format!("current log level is {filter}\n"))
        }
        Err(why) => {
            let help = format!("Invalid level provided: {level}\n{why}\n\n{LOGGING_HELP}");
            text(StatusCode::BAD_REQUEST, help)
        }
    }
}

const LOGGING_HELP: &str = "\
  POST /logging                               show the log filter in use\n\
  POST /logging?level=LEVEL                   set the level: off, error, warn, info, debug, trace\n\
  POST /logging?level=PART=LEVEL,PART:LEVEL   set it for parts of the program, such as access=debug\n\
  POST /logging?level=LEVEL&reset             go back to the default first\n";

/// Ends the process as SIGTERM does.
pub(super) fn quit(state: &State) -> Answer {
    tracing::info!("POST /quitquitquit: shutting down");
    state.asked_to_stop.cancel();
    text(StatusCode::OK, "shutdown now\n")
}
