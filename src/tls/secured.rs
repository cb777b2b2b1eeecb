//! A handshake with a peer that speaks plain TLS, 1.3 or 1.2, and may hold any certificate, or
//! none: whom the configuration lets pass. In TLS 1.3 the records are ours afterwards
//! ([`super::record`]); in 1.2 rustls keeps them ([`Tls12`]).

use std::{sync::Arc, time::Duration};

use pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ProtocolVersion, ServerConfig, client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
};
use tokio::net::TcpStream;

use super::{
    Keys, TlsError,
    driver::{self, Finished, Handshake},
    provider::{cipher_name, group_name},
    session::IntoKeys,
    tls12::Tls12,
};
use crate::observe::conn::TlsFacts;

/// A connection after its handshake.
pub struct Secured {
    /// The socket, at the first byte after `early`.
    pub tcp: TcpStream,
    /// How its records are read and written.
    pub records: SecuredRecords,
    /// Records that were read together with the end of the handshake, still sealed.
    pub early: Vec<u8>,
    /// What the peer showed, leaf first; empty if nothing.
    pub chain: Vec<CertificateDer<'static>>,
    /// What was agreed on.
    pub facts: Arc<TlsFacts>,
    /// The protocol that ALPN chose.
    pub alpn: Option<Vec<u8>>,
}

/// By protocol version.
pub enum SecuredRecords {
    /// TLS 1.3: the keys.
    Tls13(Box<Keys>),
    /// TLS 1.2: rustls' own machine.
    Tls12(Box<dyn Tls12>),
}

/// Takes a client's handshake.
///
/// # Errors
/// What was wrong with the peer; nothing was sent to it beyond an alert.
///
/// # Cancel safety
/// Dropping the future closes the socket.
pub async fn accept(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    within: Duration,
) -> Result<Secured, TlsError> {
    let tls = UnbufferedServerConnection::new(config)
        .map_err(|e| TlsError::Other(format!("own configuration: {e}")))?;
    let finished = driver::run(tcp, tls, within).await;
    secured(finished?, true)
}

/// Makes a handshake with a server.
///
/// # Errors
/// As [`accept`].
///
/// # Cancel safety
/// Dropping the future closes the socket.
pub async fn connect(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    within: Duration,
) -> Result<Secured, TlsError> {
    let shown = config.client_auth_cert_resolver.has_certs();
    let tls = UnbufferedClientConnection::new(config, name)
        .map_err(|e| TlsError::Other(format!("own configuration: {e}")))?;
    let finished = driver::run(tcp, tls, within).await;
    secured(finished?, shown)
}

/// `shown`: whether we had a certificate to show.
fn secured<H>(finished: Finished<H>, shown: bool) -> Result<Secured, TlsError>
where
    H: Handshake + IntoKeys + Tls12 + 'static,
{
    let Finished { tcp, tls, early, agreed } = finished;
    let state = tls.state();
    let chain = state.peer_certificates().unwrap_or_default().to_vec();
    let new = state.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    let facts = Arc::new(TlsFacts {
        version: if new { "TLSv1.3" } else { "TLSv1.2" },
        group: state.negotiated_key_exchange_group().map_or("none", |g| group_name(g.name())),
        cipher: state.negotiated_cipher_suite().map_or("none", |s| cipher_name(s.suite())),
        mutual: shown && !chain.is_empty(),
        path: None,
    });
    let alpn = state.alpn_protocol().map(<[u8]>::to_vec);
    let records = if new {
        SecuredRecords::Tls13(Box::new(tls.into_keys(&agreed)?))
    } else {
        SecuredRecords::Tls12(tls)
    };
    Ok(Secured { tcp, records, early, chain, facts, alpn })
}
