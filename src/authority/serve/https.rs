//! One HTTPS request, its answer bounded and awaited for a while: a JWKS, a TokenReview.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;

use crate::credentials::dial::{self, Roots, Server};

const DEADLINE: Duration = Duration::from_secs(5);
const LONGEST: usize = 1 << 20;

/// An `https` URL, and the roots that its server is checked against.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Where.
    pub server: Server,
    /// The path and query.
    pub path: String,
    /// PEM.
    pub roots: PathBuf,
}

impl Endpoint {
    /// From an `https` URL.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(url: &str, roots: PathBuf) -> Result<Self, String> {
        let uri: http::Uri = url.parse().map_err(|e| format!("is not a valid URL: {e}"))?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Self { server: Server::of(&uri, None, 443)?, path, roots })
    }

    /// GET, or POST if there is a body; the body of a 200 or 201.
    pub(super) async fn ask(
        &self,
        bearer: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> Result<Bytes, String> {
        let asked = tokio::time::timeout(DEADLINE, self.exchange(bearer, body)).await;
        asked.unwrap_or_else(|_| Err("no answer within 5 s".into()))
    }

    async fn exchange(&self, bearer: Option<&str>, body: Option<Vec<u8>>) -> Result<Bytes, String> {
        let say = |e: &dyn std::fmt::Display| e.to_string();
        let tls =
            dial::dial(&self.server, &Roots::File(self.roots.clone()), b"http/1.1", None).await;
        let io = TokioIo::new(tls.map_err(|e| say(&e))?);
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(|e| say(&e))?;
        let host = match self.server.host.contains(':') {
            true => format!("[{}]:{}", self.server.host, self.server.port),
            false => format!("{}:{}", self.server.host, self.server.port),
        };
        let mut request = Request::builder()
            .method(if body.is_some() { http::Method::POST } else { http::Method::GET })
            .uri(&self.path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json");
        if let Some(token) = bearer {
            let value = http::HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|e| say(&e))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let request = request.body(body).map_err(|e| say(&e))?;
        let answer = async {
            let answer = send.send_request(request).await.map_err(|e| say(&e))?;
            let status = answer.status();
            if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
                return Err(format!("it answered {status}"));
            }
            let body = Limited::new(answer.into_body(), LONGEST).collect().await;
            Ok(body.map_err(|e| say(&e))?.to_bytes())
        };
        // The connection is driven by the same task; when it ends first, all that came is there.
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    }
}
