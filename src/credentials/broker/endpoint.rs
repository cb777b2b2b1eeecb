//! Where a Broker API is served (Broker Endpoint §4).

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

/// The environment variable that names the endpoint (Broker Endpoint §4).
pub const SOCKET_VARIABLE: &str = "SPIFFE_BROKER_SOCKET";

/// Where a Broker API is served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BrokerEndpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP socket, by address or DNS name.
    Tcp {
        /// An IP address, without brackets, or a DNS name.
        host: String,
        /// The port.
        port: u16,
    },
}

impl BrokerEndpoint {
    /// Whether it may be on another host, where our process IDs mean others (Broker API §3.1.2).
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Tcp { .. })
    }
}

impl fmt::Display for BrokerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", crate::identity::shown(path)),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

/// A text that names no endpoint.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is not a valid endpoint: expected unix:///absolute/path or tcp://HOST:PORT (Broker \
     Endpoint §4)"
)]
pub struct InvalidBrokerEndpoint(pub String);

impl FromStr for BrokerEndpoint {
    type Err = InvalidBrokerEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidBrokerEndpoint> {
        let invalid = || InvalidBrokerEndpoint(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            let plain = path.starts_with('/') && !path.starts_with("//");
            let right = plain && !path.contains(['?', '#']);
            return right.then(|| Self::Unix(path.into())).ok_or_else(invalid);
        }
        let address = text.strip_prefix("tcp://").ok_or_else(invalid)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let right = match bare {
            Some(bare) => bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()),
            None => {
                let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
                (1..=253).contains(&host.len()) && host.bytes().all(legal)
            }
        };
        let port = port.parse().ok().filter(|port| *port > 0 && right).ok_or_else(invalid)?;
        Ok(Self::Tcp { host: bare.unwrap_or(host).to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for text in [
            "unix:///run/broker.sock",
            "tcp://127.0.0.1:8000",
            "tcp://[::1]:8000",
            "tcp://broker.example.com:8443",
        ] {
            let endpoint: BrokerEndpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
        }
        for text in [
            "",
            "/run/broker.sock",
            "unix:/run/broker.sock",
            "unix://host/run/broker.sock",
            "unix:///run/broker.sock?x",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:0",
            "tcp://127.0.0.1:8000/foo",
            "tcp://user@host:8000",
            "tcp://::1:8000",
            "https://host:1",
        ] {
            assert!(text.parse::<BrokerEndpoint>().is_err(), "{text}");
        }
    }
}
