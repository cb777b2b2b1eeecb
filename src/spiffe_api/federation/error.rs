//! Why a bundle could not be fetched; the previous one is kept.

use std::{io, path::PathBuf, time::Duration};

use super::relation::{EndpointUrl, InvalidUrl};
use crate::identity::{TrustDomain, handshake_words};

/// The longest answer of a bundle endpoint that is read, in bytes.
pub(super) const MOST_BYTES: usize = 4 << 20;
/// How many redirects are followed in one visit to a bundle endpoint.
pub(super) const MOST_REDIRECTS: usize = 3;

/// Why there is no newer bundle.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A file; says which, and what is wrong.
    #[error("{path}: {why}", path = crate::identity::shown(path))]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file; the text names it.
    #[error("{0}")]
    Read(String),
    /// Nobody to check the endpoint's SVID against.
    #[error("the endpoint shows an SVID of {0}, of which adit has no bundle; name one in `bundle`")]
    NoBundle(TrustDomain),
    /// The endpoint cannot be reached.
    #[error("{url} cannot be reached: {source}")]
    Connect {
        /// Its address.
        url: EndpointUrl,
        /// What the kernel or the resolver said.
        source: io::Error,
    },
    /// It did not prove who it is.
    #[error("{url} is not trusted: {why}")]
    NotProven {
        /// Its address.
        url: EndpointUrl,
        /// The rule.
        why: String,
    },
    /// It sent something that is not HTTP, or broke off.
    #[error("{url} gave no HTTP answer: {why}")]
    Http {
        /// Its address.
        url: EndpointUrl,
        /// What went wrong.
        why: String,
    },
    /// It answered with another status than 200.
    #[error("{url} answered {status}")]
    Status {
        /// Its address.
        url: EndpointUrl,
        /// What it said.
        status: http::StatusCode,
    },
    /// It points to where we do not go.
    #[error("{url} redirects to {to:?}, which is not followed: {why}")]
    Redirect {
        /// Its address.
        url: EndpointUrl,
        /// Where it points to, cut.
        to: String,
        /// Why not.
        why: InvalidUrl,
    },
    /// It points on and on.
    #[error("{url} redirects once more after {0} redirects", MOST_REDIRECTS)]
    TooManyRedirects {
        /// The last address.
        url: EndpointUrl,
    },
    /// Its answer is longer than any bundle.
    #[error("{url} answered more than {0} bytes", MOST_BYTES)]
    TooLarge {
        /// Its address.
        url: EndpointUrl,
    },
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It is not a bundle.
    #[error("the answer is not a bundle: {0}")]
    NotBundle(String),
    /// It is older than what is held.
    #[error(
        "spiffe_sequence went back from {held} to {arrived}, so the bundle was ignored; if the \
         trust domain was really set up again, remove it from the mesh file and add it again"
    )]
    Backwards {
        /// What is held.
        held: u64,
        /// What arrived.
        arrived: u64,
    },
}

impl FetchError {
    /// A failed handshake: with what the peer's certificate broke, if it was that.
    pub(super) fn handshake(url: &EndpointUrl, error: io::Error) -> Self {
        let url = url.clone();
        let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
            return Self::Connect { url, source: error };
        };
        Self::NotProven { url, why: handshake_words(tls) }
    }

    /// What is wrong with a file that the text names.
    pub(super) fn read(why: String) -> Self {
        Self::Read(why)
    }

    /// What the kernel said about a file.
    pub(super) fn file(path: &std::path::Path, why: impl ToString) -> Self {
        Self::File { path: path.into(), why: why.to_string() }
    }
}
