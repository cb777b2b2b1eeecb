//! SOCKS5 as a server, CONNECT without authentication (RFC 1928): the three messages. Read byte by
//! byte up to their end, so that nothing of what follows is taken; the longest has 262 bytes.
//!
//! Not here: deadlines, and where a connection goes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The version, first in every message.
const VERSION: u8 = 5;
/// No authentication, the only method that is spoken.
const NO_AUTHENTICATION: u8 = 0;
/// The answer where no method is acceptable.
const NO_METHOD: u8 = 0xff;

/// What a client wants to reach.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Asked {
    /// An address.
    Addr(SocketAddr),
    /// A name and a port; the name is in lower case, and has the letters that host names have.
    Name(String, u16),
}

/// What the client is told (RFC 1928 §6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Reply {
    /// The connection stands.
    Succeeded = 0,
    /// Anything that has no code of its own.
    Failure = 1,
    /// A policy, or the mesh, does not allow it.
    NotAllowed = 2,
    /// A name that nobody knows, or nobody there.
    HostUnreachable = 4,
    /// It was refused.
    Refused = 5,
    /// Something other than CONNECT.
    CommandNotSupported = 7,
    /// An address of another kind.
    AddressNotSupported = 8,
}

impl Reply {
    /// As it is sent. No address is told: the connection is made by somebody else.
    #[must_use]
    pub fn bytes(self) -> [u8; 10] {
        [VERSION, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

/// Why a client is turned away, and what it is told first.
#[derive(Debug, thiserror::Error)]
pub enum NotSpoken {
    /// It went away before it said anything.
    #[error("it sent nothing")]
    Silent,
    /// It went away in the middle of a message.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It speaks something else, and would not understand an answer.
    #[error("not SOCKS5: version {0}")]
    Version(u8),
    /// It insists on authentication.
    #[error("it requires authentication, which adit does not support")]
    Method,
    /// It wants something that is not spoken.
    #[error("{0}")]
    Request(&'static str, Reply),
}

impl NotSpoken {
    /// What it is told.
    #[must_use]
    pub fn answer(&self) -> Vec<u8> {
        match self {
            Self::Silent | Self::Io(_) | Self::Version(_) => Vec::new(),
            Self::Method => vec![VERSION, NO_METHOD],
            Self::Request(_, reply) => reply.bytes().to_vec(),
        }
    }
}

/// Reads which methods a client offers, and returns what it is answered.
///
/// # Errors
/// It offers none that is spoken.
pub async fn greeting<R: AsyncRead + Unpin>(from: &mut R) -> Result<[u8; 2], NotSpoken> {
    version(from).await.map_err(|not| match not {
        NotSpoken::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => NotSpoken::Silent,
        not => not,
    })?;
    let mut methods = [0; 255];
    let methods = &mut methods[..usize::from(from.read_u8().await?)];
    from.read_exact(methods).await?;
    match methods.contains(&NO_AUTHENTICATION) {
        true => Ok([VERSION, NO_AUTHENTICATION]),
        false => Err(NotSpoken::Method),
    }
}

/// Reads what a client wants to reach.
///
/// # Errors
/// It wants something else than to connect, or to nowhere.
pub async fn request<R: AsyncRead + Unpin>(from: &mut R) -> Result<Asked, NotSpoken> {
    version(from).await?;
    let command = from.read_u8().await?;
    let _reserved = from.read_u8().await?;
    let host = match from.read_u8().await? {
        1 => Host::Ip(Ipv4Addr::from_bits(from.read_u32().await?).into()),
        4 => Host::Ip(IpAddr::from(Ipv6Addr::from_bits(from.read_u128().await?)).to_canonical()),
        3 => name(from).await?,
        _ => {
            let why = "an unknown address type";
            return Err(NotSpoken::Request(why, Reply::AddressNotSupported));
        }
    };
    let port = from.read_u16().await?;
    if command != 1 {
        let why = "a command other than CONNECT";
        return Err(NotSpoken::Request(why, Reply::CommandNotSupported));
    }
    if port == 0 {
        return Err(NotSpoken::Request("port 0", Reply::Refused));
    }
    match host {
        Host::Ip(ip) => Ok(Asked::Addr(SocketAddr::new(ip, port))),
        Host::Name(name) => Ok(Asked::Name(name, port)),
        Host::None => Err(NotSpoken::Request("not a valid host name", Reply::HostUnreachable)),
    }
}

enum Host {
    Ip(IpAddr),
    Name(String),
    None,
}

/// A host name, or an address that is written out.
async fn name<R: AsyncRead + Unpin>(from: &mut R) -> io::Result<Host> {
    let mut room = [0; 255];
    let bytes = &mut room[..usize::from(from.read_u8().await?)];
    from.read_exact(bytes).await?;
    let text = str::from_utf8(bytes).unwrap_or_default();
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Host::Ip(ip.to_canonical()));
    }
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    Ok(match !text.is_empty() && text.bytes().all(is_letter) {
        true => Host::Name(text.to_ascii_lowercase()),
        false => Host::None,
    })
}

async fn version<R: AsyncRead + Unpin>(from: &mut R) -> Result<(), NotSpoken> {
    match from.read_u8().await? {
        VERSION => Ok(()),
        other => Err(NotSpoken::Version(other)),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    /// What is read of these bytes, and how many of them.
    fn read(mut bytes: &[u8]) -> (Result<Asked, NotSpoken>, usize) {
        let all = bytes.len();
        let asked = request(&mut bytes).now_or_never().expect("a slice never waits");
        (asked, all - bytes.len())
    }

    #[test]
    fn requests_as_clients_send_them() {
        let v4 = [5, 1, 0, 1, 10, 0, 0, 1, 0, 80];
        let v6 = [&[5, 1, 0, 4][..], &[0; 15], &[1, 0x1f, 0x90]].concat();
        let name = [&[5, 1, 0, 3, 6][..], b"DB.sho", &[0, 80]].concat();
        let literal = [&[5, 1, 0, 3, 8][..], b"10.0.0.1", &[0, 80]].concat();
        let mapped = [&[5, 1, 0, 3, 15][..], b"::ffff:10.0.0.1", &[0, 80]].concat();
        for (bytes, asked) in [
            (&v4[..], Asked::Addr("10.0.0.1:80".parse().unwrap())),
            (&v6, Asked::Addr("[::1]:8080".parse().unwrap())),
            (&name, Asked::Name("db.sho".into(), 80)),
            (&literal, Asked::Addr("10.0.0.1:80".parse().unwrap())),
            (&mapped, Asked::Addr("10.0.0.1:80".parse().unwrap())),
        ] {
            let more = [bytes, b"and more"].concat();
            assert_eq!((read(&more).0.unwrap(), read(&more).1), (asked, bytes.len()));
        }
    }

    #[test]
    fn what_is_not_spoken_is_answered_as_the_rfc_has_it() {
        let told = |bytes: &[u8]| read(bytes).0.unwrap_err().answer();
        assert_eq!(told(&[5, 2, 0, 1, 10, 0, 0, 1, 0, 80])[..2], [5, 7], "BIND");
        assert_eq!(told(&[5, 1, 0, 2, 10, 0, 0, 1, 0, 80])[..2], [5, 8], "a kind");
        assert_eq!(told(&[5, 1, 0, 1, 10, 0, 0, 1, 0, 0])[..2], [5, 5], "port 0");
        assert_eq!(told(&[5, 1, 0, 3, 0, 0, 80])[..2], [5, 4], "no name");
        assert_eq!(told(&[5, 1, 0, 3, 1, b'/', 0, 80])[..2], [5, 4], "no host name");
        assert!(told(&[4, 1, 0, 80]).is_empty(), "SOCKS4");
        assert!(told(&[5, 1, 0, 1, 10]).is_empty(), "cut short");
        let silent = greeting(&mut &b""[..]).now_or_never().unwrap();
        assert!(matches!(silent, Err(NotSpoken::Silent)), "{silent:?}");
        let greeted = |mut bytes: &[u8]| match greeting(&mut bytes).now_or_never().unwrap() {
            Ok(answer) => answer.to_vec(),
            Err(not) => not.answer(),
        };
        assert_eq!(greeted(&[5, 2, 2, 0]), [5, 0]);
        assert_eq!(greeted(&[5, 1, 2]), [5, 0xff], "a password alone");
        assert_eq!(greeted(&[5, 0]), [5, 0xff], "nothing");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_the_end_of_one_request_at_most(bytes: Vec<u8>) {
            let (asked, used) = read(&bytes);
            prop_assert!(used <= 262);
            if let Ok(asked) = asked {
                let (again, as_many) = read(&bytes[..used]);
                prop_assert_eq!((again.unwrap(), as_many), (asked, used));
                let cut_short = read(&bytes[..used - 1]).0;
                prop_assert!(matches!(cut_short, Err(NotSpoken::Io(_))));
            }
        }
    }
}
