//! What is answered, and refusals in their one form: a status and a sentence.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use ::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What is answered.
pub type Answer = Response<Body>;

/// The body of an answer.
pub struct Body(BodyKind);

enum BodyKind {
    Whole(Full<Bytes>),
    Stream(Pieces),
}

/// What comes piece by piece, until its place is needed for somebody else.
struct Pieces {
    pieces: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    gone: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// What is said then; nothing once it is.
    last: Option<Bytes>,
}

impl Pieces {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.gone.as_mut().is_some_and(|gone| gone.as_mut().poll(cx).is_ready()) {
            self.gone = None;
            return Poll::Ready(self.last.take());
        }
        match self.last {
            Some(_) => self.pieces.as_mut().poll_next(cx),
            None => Poll::Ready(None),
        }
    }
}

impl Body {
    /// Says the last piece and ends once `gone` is cancelled, if it is a stream.
    pub(super) fn close_when(&mut self, gone: CancellationToken) {
        if let BodyKind::Stream(stream) = &mut self.0 {
            stream.gone = Some(Box::pin(gone.cancelled_owned()));
        }
    }

    /// Whether it comes as long as there is something to tell.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.0, BodyKind::Stream(_))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            BodyKind::Whole(whole) => Pin::new(whole).poll_frame(cx),
            BodyKind::Stream(stream) => {
                stream.poll_next(cx).map(|next| next.map(|piece| Ok(Frame::data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            BodyKind::Whole(whole) => whole.is_end_stream(),
            BodyKind::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            BodyKind::Whole(whole) => hyper::body::Body::size_hint(whole),
            BodyKind::Stream(_) => SizeHint::default(),
        }
    }
}

/// Plain text.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

/// Indented JSON for people and programs.
#[must_use]
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_string_pretty(value) {
        Ok(text) => answer(status, "application/json", text + "\n"),
        Err(e) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the answer cannot be written as JSON: {e}\n"),
        ),
    }
}

/// What comes piece by piece for as long as the client reads; the lifetime of a connection does not
/// limit it, and whoever takes nothing for the time of a write is closed all the same. `last` is
/// the last piece for a client that is closed in favour of a newer one.
#[must_use]
pub fn stream(
    content_type: &'static str,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
    last: &'static str,
) -> Answer {
    let pieces = Pieces {
        pieces: Box::pin(pieces),
        gone: None,
        last: Some(Bytes::from_static(last.as_bytes())),
    };
    let mut answer = of(StatusCode::OK, content_type, BodyKind::Stream(pieces));
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// An answer of another content type.
#[must_use]
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    of(status, content_type, BodyKind::Whole(Full::new(body.into())))
}

fn of(status: StatusCode, content_type: &'static str, body: BodyKind) -> Answer {
    let mut answer = Response::new(Body(body));
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
