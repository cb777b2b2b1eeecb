//! One visit to a bundle endpoint: HTTPS GET, bounded in time, size and redirects.
//!
//! Not here: which servers are trusted ([`super::verifier`]), when to fetch again ([`super::pace`])
//! and what is done with the bundle ([`super::poll`]).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use pki_types::ServerName;
use rustls::ClientConfig;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{
    error::{FetchError, MOST_BYTES, MOST_REDIRECTS},
    relation::EndpointUrl,
};
use crate::lifecycle::dial;

/// How long a visit may take, redirects included.
const WITHIN: Duration = Duration::from_secs(10);

/// The document at `url`. Redirects are followed for this visit only; each endpoint on the way
/// must satisfy `tls`, so with `https_spiffe` all have the same SPIFFE ID.
pub(super) async fn get(url: &EndpointUrl, tls: &Arc<ClientConfig>) -> Result<Bytes, FetchError> {
    timeout(WITHIN, follow(url, tls)).await.map_err(|_| FetchError::Timeout(WITHIN))?
}

async fn follow(configured: &EndpointUrl, tls: &Arc<ClientConfig>) -> Result<Bytes, FetchError> {
    let mut url = configured.clone();
    for _ in 0..=MOST_REDIRECTS {
        match visit(&url, tls).await? {
            FetchStep::Document(bytes) => return Ok(bytes),
            FetchStep::Elsewhere(location) => {
                url = url.redirected(&location).map_err(|why| FetchError::Redirect {
                    url,
                    to: location.chars().take(200).collect(),
                    why,
                })?;
            }
        }
    }
    Err(FetchError::TooManyRedirects { url })
}

enum FetchStep {
    Document(Bytes),
    Elsewhere(String),
}

async fn visit(url: &EndpointUrl, tls: &Arc<ClientConfig>) -> Result<FetchStep, FetchError> {
    let http =
        |e: &dyn std::fmt::Display| FetchError::Http { url: url.clone(), why: e.to_string() };
    let tcp = dial::connect(url.host(), url.port()).await;
    let tcp = tcp.map_err(|source| FetchError::Connect { url: url.clone(), source })?;
    let name = ServerName::try_from(url.host().to_owned())
        .map_err(|e| FetchError::NotProven { url: url.clone(), why: e.to_string() })?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await;
    let stream = stream.map_err(|e| FetchError::handshake(url, e))?;
    let mut client = http1::Builder::new();
    let client = client.max_buf_size(64 << 10).handshake(TokioIo::new(stream)).await;
    let (mut send, connection) = client.map_err(|e| http(&e))?;
    let request = Request::get(url.path_and_query())
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("adit/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| http(&e))?;
    let exchange = async {
        let answer = send.send_request(request).await.map_err(|e| http(&e))?;
        read(url, answer).await
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // What it said before it ended is still to be read.
        _ = connection => exchange.await,
    }
}

async fn read(
    url: &EndpointUrl,
    answer: http::Response<Incoming>,
) -> Result<FetchStep, FetchError> {
    let status = answer.status();
    match status {
        StatusCode::OK => {}
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {
            let location = answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            return Ok(FetchStep::Elsewhere(location.unwrap_or_default().to_owned()));
        }
        _ => return Err(FetchError::Status { url: url.clone(), status }),
    }
    match Limited::new(answer.into_body(), MOST_BYTES).collect().await {
        Ok(whole) => Ok(FetchStep::Document(whole.to_bytes())),
        Err(e) if e.is::<LengthLimitError>() => Err(FetchError::TooLarge { url: url.clone() }),
        Err(e) => Err(FetchError::Http { url: url.clone(), why: e.to_string() }),
    }
}
