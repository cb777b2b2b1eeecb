//! Where a Workload API is served (Workload Endpoint §4).

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// Where a Workload API is served (Workload Endpoint §4).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP socket, by address only.
    Tcp(SocketAddr),
}

impl Endpoint {
    /// The TCP port, if it is one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(addr) => Some(addr.port()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", crate::identity::shown(path)),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// A text that names no endpoint.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is not a valid endpoint: expected unix:///absolute/path, tcp://IP:PORT, or an absolute \
     path (Workload Endpoint §4)"
)]
pub struct InvalidEndpoint(pub String);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint(text.to_owned());
        if let Some(address) = text.strip_prefix("tcp://") {
            return address.parse().map(Self::Tcp).map_err(|_| invalid());
        }
        let path = text.strip_prefix("unix:").map_or(text, |rest| match rest.strip_prefix("//") {
            Some(path) => path,
            None => rest,
        });
        let uri = path.len() < text.len();
        let plain = path.starts_with('/') && !path.starts_with("//");
        if !plain || (uri && path.contains(['?', '#'])) {
            return Err(invalid());
        }
        Ok(Self::Unix(path.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let unix = |path: &str| Some(Endpoint::Unix(path.into()));
        for (text, expected) in [
            ("unix:///run/a.sock", unix("/run/a.sock")),
            ("unix:/run/a.sock", unix("/run/a.sock")),
            ("/run/a.sock", unix("/run/a.sock")),
            ("tcp://127.0.0.1:8000", "127.0.0.1:8000".parse().ok().map(Endpoint::Tcp)),
            ("tcp://[::1]:8000", "[::1]:8000".parse().ok().map(Endpoint::Tcp)),
            ("tcp://127.0.0.1:8000/foo", None),
            ("tcp://localhost:8000", None),
            ("tcp://127.0.0.1", None),
            ("unix://host/run/a.sock", None),
            ("unix:run/a.sock", None),
            ("unix:///run/a.sock?x", None),
            ("unix:///run/a.sock#x", None),
            ("run/a.sock", None),
            ("http://127.0.0.1:80", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Endpoint>().ok(), expected, "{text}");
        }
    }
}
