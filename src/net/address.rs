//! Where to listen and where to connect, as written: `HOST:PORT`, `unix:PATH`, `unix:@NAME`,
//! `systemd:NAME`.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
};

/// An endpoint.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Address {
    /// TCP. An empty host listens on all interfaces.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix stream socket.
    Unix(PathBuf),
    /// A Unix stream socket without a file, by its name in the abstract namespace (unix(7)).
    Abstract(String),
    /// The socket that systemd opened under this `FileDescriptorName=` (sd_listen_fds(3)).
    Systemd(String),
}

impl Address {
    /// Whether only this host can reach it, and it can reach only this host.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => {
                let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
                host == "localhost" || host.parse().is_ok_and(loopback)
            }
            Self::Unix(_) | Self::Abstract(_) | Self::Systemd(_) => true,
        }
    }

    /// Whether two processes, or two services of one, could not listen at both.
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        let (Self::Tcp { host, port }, Self::Tcp { host: theirs, port: their_port }) =
            (self, other)
        else {
            return self == other;
        };
        let overlap = |a: IpAddr, b: IpAddr| {
            // `::` takes IPv4 as well.
            let all =
                |any: IpAddr, one: IpAddr| any.is_unspecified() && (any.is_ipv6() || one.is_ipv4());
            a == b || all(a, b) || all(b, a)
        };
        let (ours, others) = (listens_at(host), listens_at(theirs));
        let met = ours.iter().any(|a| others.iter().any(|b| overlap(*a, *b)));
        port == their_port && *port != 0 && (met || host.eq_ignore_ascii_case(theirs))
    }

    /// Whether a connection to it stays on this host; an address without a host means this one.
    #[must_use]
    pub fn is_local_target(&self) -> bool {
        self.is_local() || matches!(self, Self::Tcp { host, .. } if host.is_empty())
    }
}

/// The addresses of a host where somebody listens, as far as its name says; without one all.
fn listens_at(host: &str) -> Vec<IpAddr> {
    match host {
        "" => vec![Ipv6Addr::UNSPECIFIED.into()],
        host if host.eq_ignore_ascii_case("localhost") => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        host => host.parse().map(|ip: IpAddr| ip.to_canonical()).into_iter().collect(),
    }
}

/// Not an address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a valid address: {0} (expected HOST:PORT, unix:PATH, unix:@NAME or systemd:NAME)")]
pub struct InvalidAddress(Cow<'static, str>);

/// Why a text without a colon is not an address.
fn without_port(text: &str) -> InvalidAddress {
    InvalidAddress(match text.parse::<u16>() {
        Ok(port) => format!(
            "the host is missing: :{port} is all addresses of this host, 127.0.0.1:{port} only \
             its own programs"
        )
        .into(),
        Err(_) => "the port is missing".into(),
    })
}

/// What to write instead of a URL, as far as a host can be found in it.
fn url(scheme: &str, rest: &str) -> InvalidAddress {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let port = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
    let read = place.parse().or_else(|_| format!("{place}:{port}").parse());
    InvalidAddress(match read {
        Ok(address @ Address::Tcp { .. }) if scheme.len() <= 16 => {
            format!("write {address}, without {scheme}://").into()
        }
        _ => "a URL is not an address; write only its host and port".into(),
    })
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let wrong = |why| InvalidAddress(Cow::Borrowed(why));
        if let Some(name) = text.strip_prefix("unix:@") {
            let legal = !name.is_empty() && name.len() <= 107 && !name.contains('\0');
            let why = "the name of an abstract socket must have 1 to 107 bytes";
            return legal.then(|| Self::Abstract(name.into())).ok_or(wrong(why));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            // sun_path holds 108 bytes with its end (unix(7)).
            return match path {
                "" => Err(wrong("the path is empty")),
                path if path.len() > 107 => {
                    Err(wrong("the path of a socket must have at most 107 bytes"))
                }
                path => Ok(Self::Unix(path.into())),
            };
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            let named = !name.is_empty() && name.len() <= 255 && !name.contains(':');
            return named.then(|| Self::Systemd(name.into())).ok_or(wrong("the name is empty"));
        }
        if text.starts_with("launchd:") {
            return Err(wrong("launchd is for macOS; use systemd:NAME"));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return Err(url(scheme, rest));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| without_port(text))?;
        let port = port.parse().map_err(|_| wrong("port must be 0–65535"))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or(wrong("`]` is missing"))?;
                inner
                    .parse::<std::net::Ipv6Addr>()
                    .map_err(|_| wrong("the brackets do not contain an IPv6 address"))?;
                inner
            }
            None if host.contains(':') => return Err(wrong("an IPv6 address needs brackets")),
            None => host,
        };
        if host.len() > 253 || host.chars().any(|c| c.is_whitespace() || c == '/') {
            return Err(wrong("the host is not valid"));
        }
        Ok(Self::Tcp { host: host.into(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", crate::identity::shown(path)),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_where_two_cannot_listen_collide() {
        for (a, b, collide) in [
            (":8443", "0.0.0.0:8443", true),
            (":8443", "[::]:8443", true),
            ("0.0.0.0:8443", "[::]:8443", true),
            ("0.0.0.0:8443", "127.0.0.1:8443", true),
            ("[::]:8443", "127.0.0.1:8443", true),
            ("localhost:8443", "127.0.0.1:8443", true),
            ("localhost:8443", "[::1]:8443", true),
            ("[::ffff:127.0.0.1]:8443", "127.0.0.1:8443", true),
            ("LOCALHOST:8443", "localhost:8443", true),
            ("db.example:1", "DB.example:1", true),
            ("unix:/a", "unix:/a", true),
            ("0.0.0.0:8443", "[::1]:8443", false),
            ("127.0.0.1:8443", "127.0.0.2:8443", false),
            (":8443", ":8444", false),
            (":0", ":0", false),
            ("unix:/a", "unix:/b", false),
            ("unix:/a", ":1", false),
        ] {
            let read = |text: &str| text.parse::<Address>().unwrap();
            assert_eq!(read(a).collides(&read(b)), collide, "{a} {b}");
            assert_eq!(read(b).collides(&read(a)), collide, "{b} {a}");
        }
    }

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for (text, local) in [
            ("127.0.0.1:80", true),
            ("localhost:1", true),
            ("[::1]:443", true),
            ("example.org:443", false),
            ("10.0.0.1:65535", false),
            (":8443", false),
            ("[::ffff:127.0.0.1]:80", true),
            ("[::ffff:10.0.0.1]:80", false),
            ("unix:/run/a.sock", true),
            ("unix:@adit/db", true),
            ("systemd:tls", true),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.is_local()), (text, local));
            assert_eq!(address.is_local_target(), local || text.starts_with(':'), "{text}");
        }
        for (text, says) in [
            ("localhost", "port is missing"),
            ("8443", "the host is missing: :8443 is all addresses of this host, 127.0.0.1:8443 "),
            ("99999", "port is missing"),
            ("localhost:http", "port must be 0–65535"),
            ("::1:80", "needs brackets"),
            ("[::1:80", "`]` is missing"),
            ("[localhost]:80", "do not contain an IPv6 address"),
            ("unix:", "path is empty"),
            ("unix:@", "1 to 107 bytes"),
            ("systemd:", "name is empty"),
            ("launchd:x", "macOS"),
            ("a/b:1", "the host is not valid"),
            ("a:65536", "65535"),
            ("http://localhost:8080", "write localhost:8080, without http:// ("),
            ("https://[::1]:8443/a?b:c", "write [::1]:8443, without https:// ("),
            ("https://example.org", "write example.org:443, without https:// ("),
            ("http://u:hunter2@localhost/", "write localhost:80, without http:// ("),
            ("tcp://db:5432", "write db:5432, without tcp:// ("),
            ("http://a b:x", "a URL is not an address; write only its host and port"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
