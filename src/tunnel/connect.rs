//! The CONNECT request: what is asked for, and by whom it says it is asked.
//!
//! Of the headers only `:authority` is believed; the caller's identity is the one in its
//! SVID, its address the one of its socket (istio-ambient facts §3.3, §3.7).

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc};

use http::{HeaderValue, Method, Request, Version};

/// The headers of a request.
pub use http::HeaderMap as Headers;

/// `:authority`: whom the stream is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Authority {
    /// A pod's address and port.
    Addr(SocketAddr),
    /// A service's hostname and port.
    Host(String, u16),
}

/// A text that is no authority.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(":authority is not IP:port or hostname:port")]
pub struct InvalidAuthority;

impl FromStr for Authority {
    type Err = InvalidAuthority;

    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return if addr.port() == 0 { Err(InvalidAuthority) } else { Ok(Self::Addr(addr)) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAuthority)?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let port = port.parse().ok().filter(|p| *p != 0).ok_or(InvalidAuthority)?;
        if host.is_empty() || host.len() > 253 || !host.bytes().all(legal) {
            return Err(InvalidAuthority);
        }
        Ok(Self::Host(host.to_ascii_lowercase(), port))
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => write!(f, "{addr}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// What is sent to open a stream.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// Whom the stream is for.
    pub authority: Authority,
    /// The application's address, for `forwarded`.
    pub client: SocketAddr,
    /// The service that was called, for the far side's telemetry.
    pub service: Option<Arc<str>>,
    /// Who calls, for the far side's telemetry (`baggage`).
    pub baggage: String,
}

impl ConnectRequest {
    /// RFC 9113 §8.5: CONNECT carries `:authority`, and no `:scheme` or `:path`.
    pub(super) fn to_http(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.version_mut() = Version::HTTP_2;
        let authority = self.authority.to_string().parse::<http::uri::Authority>();
        if let Ok(authority) = authority {
            *request.uri_mut() = authority.into();
        }
        let mut forwarded = format!("for=\"{}\"", self.client);
        if let Some(service) = &self.service {
            forwarded.push_str(&format!(";host={service}"));
        }
        let trace = format!("00-{:032x}-{:016x}-00", rand::random::<u128>(), rand::random::<u64>());
        for (name, value) in
            [("baggage", &self.baggage), ("forwarded", &forwarded), ("traceparent", &trace)]
        {
            if let Ok(value) = HeaderValue::from_str(value) {
                request.headers_mut().insert(name, value);
            }
        }
        request
    }
}

/// `host=` of the first `Forwarded` line, for telemetry only.
#[must_use]
pub fn forwarded_host(headers: &Headers) -> Option<&str> {
    let line = headers.get(http::header::FORWARDED)?.to_str().ok()?;
    let host = line.split(';').find_map(|part| part.trim().strip_prefix("host="))?;
    let host = host.trim_matches('"');
    (!host.is_empty() && host.len() <= 253).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for (text, printed) in [
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
            ("db.shop.svc:5432", Some("db.shop.svc:5432")),
            ("DB.shop:1", Some("db.shop:1")),
            ("10.0.0.1", None),
            ("10.0.0.1:0", None),
            ("10.0.0.1:65536", None),
            ("fd00::1:80", None),
            (":80", None),
            ("a b:80", None),
            ("user@host:80", None),
            ("", None),
        ] {
            let parsed = text.parse::<Authority>().ok().map(|a| a.to_string());
            assert_eq!(parsed.as_deref(), printed, "{text}");
        }
    }

    #[test]
    fn a_connect_request_has_an_authority_and_neither_scheme_nor_path() {
        let request = ConnectRequest {
            authority: "[fd00::1]:80".parse().unwrap(),
            client: "10.0.0.9:4242".parse().unwrap(),
            service: Some("db.shop.svc.cluster.local".into()),
            baggage: "k8s.namespace.name=shop".into(),
        }
        .to_http();
        assert_eq!(
            (request.method(), request.uri().to_string()),
            (&Method::CONNECT, "[fd00::1]:80".into())
        );
        assert!(request.uri().scheme().is_none() && request.uri().path_and_query().is_none());
        assert_eq!(forwarded_host(request.headers()), Some("db.shop.svc.cluster.local"));
        assert_eq!(request.headers()["traceparent"].len(), 55);
    }
}
