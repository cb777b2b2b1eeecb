//! What is answered, and refusals in their one form: a status and a sentence.

use ::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;

/// What is answered.
pub type Answer = Response<Full<Bytes>>;

/// Plain text.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

/// Indented JSON for people and programs.
#[must_use]
pub fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    answer(status, "application/json", format!("{value:#}\n"))
}

/// An answer of another content type.
#[must_use]
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// A refusal, after which the connection is closed: what else the client sent is not read.
pub(super) fn refuse_and_close(status: StatusCode, why: String) -> Answer {
    let mut refused = text(status, why);
    refused.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    refused
}
