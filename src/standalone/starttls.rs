//! Protocols that ask for TLS in the clear before they begin it.

use std::{fmt, io, str::FromStr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::tls::SSL_REQUEST;

/// GSSENCRequest: the same for encryption by GSSAPI, which libpq asks for first where it could.
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
/// The first byte of a ClientHello's record.
const HANDSHAKE: u8 = 22;

/// A protocol that asks so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StartTls {
    /// PostgreSQL's SSLRequest (protocol-flow, "SSL Session Encryption").
    Postgres,
}

impl FromStr for StartTls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "postgres" => Ok(Self::Postgres),
            other => Err(format!("{other:?} is no protocol that is known here; there is postgres")),
        }
    }
}

impl fmt::Display for StartTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres")
    }
}

impl StartTls {
    /// What ALPN calls it, once there is TLS.
    #[must_use]
    pub fn alpn(self) -> &'static str {
        "postgresql"
    }

    /// Answers a caller who asks for TLS. One who begins it at once is left to do so. Not a byte is
    /// read beyond the question: what came behind it in the clear must be TLS.
    ///
    /// # Errors
    /// If it asks for something else; `ConnectionAborted` if it ended before it said anything.
    pub(super) async fn answer(self, tcp: &mut TcpStream) -> io::Result<()> {
        // GSSENCRequest and SSLRequest come at most once each.
        for _ in 0..2 {
            match first(tcp).await? {
                HANDSHAKE => return Ok(()),
                0 => {}
                _ => break,
            }
            let mut asked = [0; 8];
            tcp.read_exact(&mut asked).await?;
            match asked {
                SSL_REQUEST => return tcp.write_all(b"S").await,
                GSS_REQUEST => tcp.write_all(b"N").await?,
                _ => break,
            }
        }
        let why = "received neither PostgreSQL's SSLRequest nor TLS; the client must ask for TLS \
                   (sslmode=require)";
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// Asks a target for TLS, and reads its answer and not a byte more.
    ///
    /// # Errors
    /// If it has none.
    pub(super) async fn ask(self, tcp: &mut TcpStream) -> io::Result<()> {
        tcp.write_all(&SSL_REQUEST).await?;
        let why = match tcp.read_u8().await? {
            b'S' => return Ok(()),
            b'N' => "the target's PostgreSQL speaks no TLS (ssl = off)",
            _ => "the target has not answered an SSLRequest as PostgreSQL does",
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

async fn first(tcp: &TcpStream) -> io::Result<u8> {
    let mut byte = [0];
    match tcp.peek(&mut byte).await {
        Ok(0) => Err(io::ErrorKind::ConnectionAborted.into()),
        Ok(_) => Ok(byte[0]),
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
            Err(io::ErrorKind::ConnectionAborted.into())
        }
        Err(e) => Err(e),
    }
}
