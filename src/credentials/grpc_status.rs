//! The text of a gRPC status.

use tonic::Status;

use crate::identity::stream_words;

/// What a status says, with the causes that tonic keeps behind it.
pub(crate) fn said(status: &Status) -> String {
    let mut text = status.message().chars().take(500).collect::<String>();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause.filter(|_| text.len() < 1000) {
        let more = match error.downcast_ref::<std::io::Error>() {
            Some(io) => stream_words(io),
            None => error.to_string(),
        };
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}
