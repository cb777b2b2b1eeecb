//! One bounded HTTP request to a URL of the operator's: a health check, or metrics that are
//! pushed.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pki_types::ServerName;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::identity::stream_words;

/// `http://` or `https://`, host, port and path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpUrl {
    /// Whether it is https.
    pub tls: bool,
    /// The host, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    authority: String,
    /// The path with its query.
    pub path: String,
}

impl FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: http::Uri =
            text.parse().map_err(|e| format!("{text:?} is not a valid URL: {e}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("{text:?} must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| format!("{text:?} has no host"))?;
        if authority.as_str().contains('@') {
            return Err(format!("{text:?}: a user name in a URL is not sent"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Self { tls, host, port, authority: authority.as_str().to_owned(), path })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// Sends one request over `tcp`, through TLS where the URL says so, and reads the answer's head;
/// redirects are not followed and the body is not read. The caller limits the time.
///
/// # Errors
/// What went wrong, with the URL.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub(in crate::roles::standalone) async fn exchange(
    url: &HttpUrl,
    tcp: TcpStream,
    tls: Option<Arc<ClientConfig>>,
    method: Method,
    body: Bytes,
) -> Result<StatusCode, String> {
    if !url.tls {
        return ask(url, tcp, method, body).await;
    }
    let tls =
        tls.ok_or_else(|| format!("{url}: there are no roots to check its certificate with"))?;
    let name = ServerName::try_from(url.host.clone()).map_err(|e| format!("{url}: {e}"))?;
    let stream = TlsConnector::from(tls).connect(name, tcp).await;
    let stream = stream.map_err(|e| format!("{url}: {}", stream_words(&e)))?;
    ask(url, stream, method, body).await
}

async fn ask(
    url: &HttpUrl,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    method: Method,
    body: Bytes,
) -> Result<StatusCode, String> {
    let failed = |e: &dyn fmt::Display| format!("{url}: {e}");
    let mut client = http1::Builder::new();
    let client = client.max_buf_size(16 << 10).handshake(TokioIo::new(stream)).await;
    let (mut send, connection) = client.map_err(|e| failed(&e))?;
    let request = Request::builder()
        .method(method)
        .uri(url.path.as_str())
        .header(header::HOST, url.authority.as_str())
        .header(header::USER_AGENT, concat!("adit/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|e| failed(&e))?;
    let exchange = async {
        let answer = send.send_request(request).await.map_err(|e| failed(&e))?;
        Ok(answer.status())
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // What it said before it ended is still to be read.
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_alike() {
        for (text, tls, host, port) in [
            ("http://localhost/health", false, "localhost", 80),
            ("https://example.org/a?b=c", true, "example.org", 443),
            ("http://[::1]:8080/", false, "::1", 8080),
        ] {
            let url: HttpUrl = text.parse().unwrap();
            assert_eq!((url.tls, url.host.as_str(), url.port), (tls, host, port));
            assert_eq!(url.to_string(), text);
        }
        for (text, says) in
            [("ftp://a/", "must begin"), ("/health", "must begin"), ("http://u@h/", "user name")]
        {
            assert!(text.parse::<HttpUrl>().unwrap_err().contains(says), "{text}");
        }
    }
}
