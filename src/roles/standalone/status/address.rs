//! Where the status endpoint listens, as written.

use std::{fmt, str::FromStr};

use crate::net::Address;

/// What is spoken there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// HTTP.
    Http,
    /// HTTPS, with the certificate of the first service.
    Https,
}

/// `HOST:PORT` with or without `http://` or `https://`, `unix:PATH`, `systemd:NAME`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StatusAddress {
    /// As written; without it HTTPS where there is a certificate, and HTTP else.
    pub scheme: Option<Scheme>,
    /// Where.
    pub address: Address,
}

impl StatusAddress {
    /// Whether HTTPS is spoken, given that there is a certificate or none.
    #[must_use]
    pub fn https(&self, certificate: bool) -> bool {
        match (&self.address, self.scheme) {
            (Address::Tcp { .. }, None) => certificate,
            (_, scheme) => scheme == Some(Scheme::Https),
        }
    }
}

impl FromStr for StatusAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some((other, _)) => return Err(format!("{other}:// is neither http:// nor https://")),
            None => (None, text),
        };
        let address: Address = rest.parse().map_err(|e| format!("{e}"))?;
        if scheme.is_some() && !matches!(address, Address::Tcp { .. }) {
            return Err(format!("{address} is always plain HTTP: write it without http(s)://"));
        }
        Ok(Self { scheme, address })
    }
}

impl fmt::Display for StatusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Some(Scheme::Http) => write!(f, "http://{}", self.address),
            Some(Scheme::Https) => write!(f, "https://{}", self.address),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_written_or_follows_from_the_certificate() {
        for (text, with, without) in [
            ("localhost:6060", true, false),
            ("http://localhost:6060", false, false),
            ("https://[::1]:6060", true, true),
            ("unix:/run/status.sock", false, false),
            ("systemd:status", false, false),
        ] {
            let address: StatusAddress = text.parse().unwrap();
            assert_eq!((address.https(true), address.https(false)), (with, without), "{text}");
            assert_eq!(address.to_string(), text);
        }
        for (text, says) in [
            ("ftp://localhost:1", "neither"),
            ("http://unix:/x", "always plain"),
            ("https://localhost", "port is missing"),
        ] {
            assert!(text.parse::<StatusAddress>().unwrap_err().contains(says), "{text}");
        }
    }
}
