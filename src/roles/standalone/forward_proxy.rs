//! A client's targets behind a forward proxy: HTTP CONNECT (RFC 9110 §9.3.6) or SOCKS5 (RFC 1928).
//! The proxy resolves names, and sees TLS only.

use std::{fmt, io, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderValue, Uri};
use hyper_util::{
    client::legacy::connect::proxy::{SocksV5, Tunnel},
    rt::TokioIo,
};
use tokio::net::TcpStream;
use tower::{Service as _, service_fn};

use crate::{
    credentials::store::Password,
    net::{Address, endpoint},
};

/// `http://` or `socks5://`, with `USER:PASSWORD@` where the proxy asks who we are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForwardProxy {
    protocol: Protocol,
    address: Address,
    user: Option<(String, Password)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Protocol {
    Http,
    Socks5,
}

impl ForwardProxy {
    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl FromStr for ForwardProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "expected http://HOST:PORT or socks5://HOST:PORT";
        let uri: Uri =
            text.parse().map_err(|e| format!("this is not a valid URL: {e}; {wrong}"))?;
        let (protocol, port) = match uri.scheme_str() {
            Some("http") => (Protocol::Http, 80),
            Some("socks5" | "socks5h") => (Protocol::Socks5, 1080),
            Some("https") => {
                return Err(format!("a proxy that is reached by TLS is not supported; {wrong}"));
            }
            _ => return Err(wrong.into()),
        };
        if uri.path_and_query().is_some_and(|p| p.as_str() != "/") {
            return Err(format!("the URL of a proxy must not have a path; {wrong}"));
        }
        let authority = uri.authority().ok_or(wrong)?;
        let user = authority.as_str().rsplit_once('@').map(|(user, _)| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            (unescaped(name), Password(unescaped(password).into()))
        });
        if user.iter().any(|(name, password)| name.len() > 255 || password.0.len() > 255) {
            return Err("a user name or password must have at most 255 bytes (RFC 1929)".into());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let address = Address::Tcp { host, port: authority.port_u16().unwrap_or(port) };
        Ok(Self { protocol, address, user })
    }
}

/// Without its `%XX` (RFC 3986 §2.1).
fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        let hex = |b: &u8| char::from(*b).to_digit(16);
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                let byte = hex(high).unwrap_or(0) * 16 + hex(low).unwrap_or(0);
                bytes.extend(u8::try_from(byte));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl fmt::Display for ForwardProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// Connects, through the proxy if there is one.
///
/// # Errors
/// What the last of the addresses said, or the proxy.
///
/// # Cancel safety
/// Dropping the future closes the socket.
pub(super) async fn connect(
    proxy: Option<&ForwardProxy>,
    target: &Address,
) -> io::Result<TcpStream> {
    let Some(proxy) = proxy else { return endpoint::connect(target).await };
    let stream = endpoint::connect(&proxy.address).await;
    let stream = stream.map_err(|e| io::Error::new(e.kind(), format!("the proxy {proxy}: {e}")))?;
    let refused = |why: String| io::Error::other(format!("the proxy {proxy}: {why}"));
    let uri = |address: &Address| {
        let uri = Uri::builder().scheme("http").authority(address.to_string());
        uri.path_and_query("/").build().map_err(|e| refused(e.to_string()))
    };
    let (there, towards) = (uri(&proxy.address)?, uri(target)?);
    // Both want to connect by themselves; once is enough.
    let mut stream = Some(TokioIo::new(stream));
    let connected = service_fn(move |_: Uri| {
        std::future::ready(stream.take().ok_or_else(|| io::Error::other("connected twice")))
    });
    let through = match proxy.protocol {
        Protocol::Http => {
            let mut tunnel = Tunnel::new(there, connected);
            if let Some((name, password)) = &proxy.user {
                let credentials = BASE64_STANDARD.encode(format!("{name}:{}", *password.0));
                let value = HeaderValue::try_from(format!("Basic {credentials}"));
                tunnel = tunnel.with_auth(value.map_err(|e| refused(e.to_string()))?);
            }
            tunnel.call(towards).await.map_err(|e| refused(e.to_string()))?
        }
        Protocol::Socks5 => {
            let mut socks = SocksV5::new(there, connected);
            if let Some((name, password)) = &proxy.user {
                socks = socks.with_auth(name.clone(), password.0.to_string());
            }
            socks.call(towards).await.map_err(|e| refused(e.to_string()))?
        }
    };
    Ok(through.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_urls() {
        for (text, shown, user) in [
            ("http://p:3128", "http://p:3128", None),
            ("http://p", "http://p:80", None),
            ("socks5://[::1]:9", "socks5://[::1]:9", None),
            ("socks5h://p/", "socks5://p:1080", None),
            ("http://me:s%40cr%3At@p:1", "http://p:1", Some(("me", "s@cr:t"))),
            ("socks5://me@p", "socks5://p:1080", Some(("me", ""))),
        ] {
            let proxy: ForwardProxy = text.parse().unwrap();
            assert_eq!(proxy.to_string(), shown, "{text}");
            let read = proxy.user.as_ref().map(|(n, p)| (n.as_str(), p.0.as_str()));
            assert_eq!(read, user, "{text}");
            assert!(!format!("{proxy:?}").contains("cr:t"), "{proxy:?}");
        }
        for bad in ["https://p:1", "p:1", "ftp://p", "http://p/path", "", "http://"] {
            assert!(bad.parse::<ForwardProxy>().is_err(), "{bad}");
        }
    }
}
