//! Protocols that ask for TLS in the clear before they begin it.

use std::{fmt, io, os::fd::AsRawFd as _, str::FromStr};

use nix::sys::socket::{MsgFlags, recv};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
};

use crate::tls::SSL_REQUEST;

/// GSSENCRequest: the same for encryption by GSSAPI, which libpq asks for first where it could.
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
/// How a CancelRequest begins, which carries a key of 8 bytes.
const CANCEL_REQUEST: [u8; 8] = [0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e];
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
            other => Err(format!("{other:?} is not a known protocol: must be postgres")),
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
                CANCEL_REQUEST => {
                    let why = "received PostgreSQL's CancelRequest in plaintext, without a certificate: \
                         libpq before 17 sends it so, unless it goes through adit client \
                         --starttls postgres";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                _ => break,
            }
        }
        let why = "received neither PostgreSQL's SSLRequest nor TLS; the client must ask for TLS \
                   (sslmode=require)";
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// Tells an application that asks for encryption first that there is none on this side. What
    /// else it says first (a startup, a CancelRequest) is left for the target, and not a byte of it
    /// is read.
    ///
    /// # Errors
    /// If the application is gone.
    pub(super) async fn decline(self, app: &mut TcpStream) -> io::Result<()> {
        // Each question comes at most once; a target refuses whoever goes on asking.
        for _ in 0..2 {
            if !asks(app).await? {
                break;
            }
            let mut asked = [0; 8];
            app.read_exact(&mut asked).await?;
            app.write_all(b"N").await?;
        }
        Ok(())
    }

    /// Asks a target for TLS, and reads its answer and not a byte more.
    ///
    /// # Errors
    /// If it has none.
    pub(super) async fn ask(self, tcp: &mut TcpStream) -> io::Result<()> {
        tcp.write_all(&SSL_REQUEST).await?;
        let why = match tcp.read_u8().await? {
            b'S' => return Ok(()),
            b'N' => "the target's PostgreSQL does not offer TLS (ssl = off)",
            _ => "the target's answer to an SSLRequest is not PostgreSQL",
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

/// Whether a question for encryption comes first. It may come in pieces; who ends before it is
/// whole has asked nothing.
async fn asks(app: &TcpStream) -> io::Result<bool> {
    loop {
        let ready = app.ready(Interest::READABLE).await?;
        let looked = app.try_io(Interest::READABLE, || {
            let mut room = [0; 8];
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            let length = recv(app.as_raw_fd(), &mut room, flags)?;
            let have = &room[..length];
            let begun = [SSL_REQUEST, GSS_REQUEST].iter().any(|asked| asked.starts_with(have));
            match begun && have.len() < SSL_REQUEST.len() && !ready.is_read_closed() {
                // The rest of it wakes us.
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(begun && have.len() == SSL_REQUEST.len()),
            }
        });
        match looked {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            asked => return asked,
        }
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
