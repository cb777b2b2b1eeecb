//! The CONNECT request: what is asked for, and by whom it says it is asked.
//!
//! Of the headers only `:authority` is trusted; the caller's identity is the one in its SVID, its
//! address the one of its socket (istio-ambient facts §3.3, §3.7).

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc};

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
        // `parse` would take a sign.
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|p| digits && *p != 0).ok_or(InvalidAuthority)?;
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
    /// The destination of the stream.
    pub authority: Authority,
    /// The application's address, for `forwarded`.
    pub client: SocketAddr,
    /// The service that was called, for the far side's telemetry.
    pub service: Option<Arc<str>>,
    /// Who calls, for the far side's telemetry (`baggage`).
    pub baggage: String,
    /// The caller's network, where the far side is in another (`x-forwarded-network`).
    pub network: Option<Arc<str>>,
}

impl ConnectRequest {
    /// Lends the authority and the fields that follow it (RFC 9113 §8.5: no `:scheme`, no
    /// `:path`).
    pub(super) fn with_fields<T>(&self, use_: impl FnOnce(&str, &[(&str, &str)]) -> T) -> T {
        let authority = self.authority.to_string();
        let mut forwarded = format!("for=\"{}\"", self.client);
        if let Some(service) = &self.service {
            forwarded.push_str(&format!(";host={service}"));
        }
        let trace = format!("00-{:032x}-{:016x}-00", rand::random::<u128>(), rand::random::<u64>());
        let baggage = self.baggage.as_str();
        let fields = [
            ("baggage", baggage),
            ("forwarded", &forwarded),
            ("traceparent", &trace),
            ("x-forwarded-network", self.network.as_deref().unwrap_or_default()),
        ];
        let sent = if self.network.is_some() { &fields[..] } else { &fields[..3] };
        use_(&authority, sent)
    }
}

/// `host=` of a `Forwarded` line (RFC 7239), for telemetry only.
#[must_use]
pub fn forwarded_host(line: &str) -> Option<&str> {
    let host = line.split(';').find_map(|part| part.trim().strip_prefix("host="))?;
    let host = host.trim_matches('"');
    (!host.is_empty() && host.len() <= 253).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        let long = format!("{}:80", "x".repeat(254));
        for (text, printed) in [
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
            ("[::ffff:10.0.0.1]:80", Some("[::ffff:10.0.0.1]:80")),
            ("db.shop.svc:5432", Some("db.shop.svc:5432")),
            ("a_b-c.d:65535", Some("a_b-c.d:65535")),
            ("DB.shop:1", Some("db.shop:1")),
            ("", None),
            (":", None),
            (":80", None),
            ("10.0.0.1", None),
            ("10.0.0.1:", None),
            ("10.0.0.1:0", None),
            ("10.0.0.1:65536", None),
            ("10.0.0.1:+80", None),
            ("db:+80", None),
            ("10.0.0.1:-1", None),
            ("10.0.0.1: 80", None),
            (" 10.0.0.1:80", None),
            ("10.0.0.1:80 ", None),
            ("10.0.0.1:80/x", None),
            ("10.0.0.1:80?x", None),
            ("10.0.0.1:80#x", None),
            ("http://10.0.0.1:80", None),
            ("user@host:80", None),
            ("user:secret@host:80", None),
            ("fd00::1:80", None),
            ("[fd00::1]", None),
            ("[fd00::1:80", None),
            ("[10.0.0.1]:80", None),
            ("[::1]x:80", None),
            ("a b:80", None),
            ("a,b:80", None),
            ("db:80:90", None),
            ("*:80", None),
            ("d\u{e9}:80", None),
            ("db\0:80", None),
            ("db\t:80", None),
            ("db%2e:80", None),
            ("10.0.0.1:8\u{0660}", None),
            (&long, None),
        ] {
            let parsed = text.parse::<Authority>().ok().map(|a| a.to_string());
            assert_eq!(parsed.as_deref(), printed, "{text:?}");
        }
    }

    #[test]
    fn a_connect_request_says_who_asks_and_what_for() {
        let request = ConnectRequest {
            authority: "[fd00::1]:80".parse().unwrap(),
            client: "10.0.0.9:4242".parse().unwrap(),
            service: Some("db.shop.svc.cluster.local".into()),
            baggage: "k8s.namespace.name=shop".into(),
            network: None,
        };
        request.with_fields(|authority, fields| {
            assert_eq!(authority, "[fd00::1]:80");
            assert_eq!(fields[0], ("baggage", "k8s.namespace.name=shop"));
            assert_eq!(fields[1].1, "for=\"10.0.0.9:4242\";host=db.shop.svc.cluster.local");
            assert_eq!(forwarded_host(fields[1].1), Some("db.shop.svc.cluster.local"));
            assert_eq!(fields[2].1.len(), 55);
        });
    }
}
