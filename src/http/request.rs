//! What is asked: which methods a path takes, the query, and a body within its limits.

use std::time::Duration;

use ::http::{HeaderValue, Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use super::answer::{Answer, refuse_and_close, text};

/// The longest body of a request; nothing that is asked for needs more.
const LONGEST_BODY: usize = 16 << 10;

/// The methods of a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Methods {
    /// It is read: GET and HEAD.
    Read,
    /// It changes something: POST.
    Change,
    /// Both.
    ReadAndChange,
}

impl Methods {
    /// The refusal of a method that the path does not take.
    pub(super) fn refuse(self, method: &Method) -> Option<Answer> {
        let (taken, allow) = match self {
            Self::Read => (&[Method::GET, Method::HEAD][..], "GET, HEAD"),
            Self::Change => (&[Method::POST][..], "POST"),
            Self::ReadAndChange => {
                (&[Method::GET, Method::HEAD, Method::POST][..], "GET, HEAD, POST")
            }
        };
        (!taken.contains(method)).then(|| {
            let mut refused =
                text(StatusCode::METHOD_NOT_ALLOWED, format!("method not allowed: use {allow}\n"));
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
            refused
        })
    }
}

/// The value of `key` in the query, as written there.
#[must_use]
pub fn query<'a, B>(request: &'a Request<B>, key: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key).map(|(_, v)| v)
}

/// The whole body, or the refusal of one that is too long or too slow.
pub(super) async fn read(body: Incoming, within: Duration) -> Result<Bytes, Answer> {
    let too_long = || {
        let why = format!("the body is longer than {LONGEST_BODY} bytes\n");
        refuse_and_close(StatusCode::PAYLOAD_TOO_LARGE, why)
    };
    if body.size_hint().lower() > LONGEST_BODY as u64 {
        return Err(too_long());
    }
    match timeout(within, Limited::new(body, LONGEST_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => {
            Err(refuse_and_close(StatusCode::BAD_REQUEST, "the body is not complete\n".into()))
        }
        Err(_) => {
            let why = format!("the body did not arrive within {within:?}\n");
            Err(refuse_and_close(StatusCode::REQUEST_TIMEOUT, why))
        }
    }
}
