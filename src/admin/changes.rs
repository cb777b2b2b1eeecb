//! What `POST` changes.

use ::http::{Method, Request, StatusCode};
use bytes::Bytes;

use super::state::State;
use crate::http::{Answer, query, text};

pub(super) fn rotate(state: &State, request: &Request<Bytes>) -> Answer {
    let id = query(request, "id").and_then(|id| id.parse().ok());
    match id.map(|id| state.node.svids.rotate_now(&id)) {
        Some(true) => text(StatusCode::OK, "renewing\n"),
        Some(false) => text(StatusCode::NOT_FOUND, "not an identity of this node\n"),
        None => text(StatusCode::BAD_REQUEST, "?id= must be a SPIFFE ID\n"),
    }
}

pub(super) fn refresh(state: &State, request: &Request<Bytes>) -> Answer {
    let trust_domain = query(request, "trustDomain").and_then(|td| td.parse().ok());
    match trust_domain.map(|td| state.federation.refresh_now(&td)) {
        Some(true) => text(StatusCode::OK, "asking\n"),
        Some(false) => text(StatusCode::NOT_FOUND, "the mesh file has no such trust domain\n"),
        None => text(StatusCode::BAD_REQUEST, "?trustDomain= must be a trust domain\n"),
    }
}

pub(super) fn logging(state: &State, request: &Request<Bytes>) -> Answer {
    let Some(level) = query(request, "level").filter(|_| request.method() == Method::POST) else {
        return text(StatusCode::OK, format!("{}\n", state.logging.filter()));
    };
    match state.logging.set_filter(level) {
        Ok(()) => text(StatusCode::OK, format!("{}\n", state.logging.filter())),
        Err(e) => text(StatusCode::BAD_REQUEST, format!("{level:?}: {e}\n")),
    }
}
