//! The way to a target, which connections, health checks and probes have in common.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use pki_types::ServerName;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

use super::{
    Service, forward_proxy,
    outcome::{Outcome, failed, own},
    proxy_protocol,
    targets::Target,
    tls::Config,
};
use crate::{
    lifecycle::until_heard,
    net::{Address, CloseReason, endpoint},
    observe::conn::OpenConn,
    relay::SecuredRemote,
    sys::descriptors::of_traffic,
    tls::secured::{self, Secured},
};

/// TLS to one target; whether it is an accepted one, beyond its certificate's name, is not checked.
/// `dialled` sees the socket before the handshake, and may have it closed.
pub(super) async fn tls(
    service: &Service,
    target: &Target,
    dialled: impl FnOnce(&TcpStream) -> io::Result<()>,
) -> Result<Secured, Outcome> {
    let Config::Client(config) = service.tls().map_err(own)? else {
        return Err(own("the mode of the service changed".into()));
    };
    let tcp = forward_proxy::connect(service.config.proxy.as_ref(), &target.address).await;
    let mut tcp = tcp.map_err(|e| unreached(target, &e))?;
    dialled(&tcp).map_err(|e| unreached(target, &e))?;
    if let Some(protocol) = service.config.tls.starttls {
        protocol.ask(&mut tcp).await.map_err(|e| not_begun(&e))?;
    }
    let name = server_name(service, target)?;
    let secured = secured::connect(tcp, config, name, service.config.connect).await;
    secured.map_err(|e| failed(&e))
}

/// A plain connection to a target by which nobody is carried: where a PROXY header must come
/// first, it says so.
pub(super) async fn plain(service: &Service, address: &Address) -> io::Result<TcpStream> {
    let mut tcp = endpoint::connect(address).await?;
    if let Some(mode) = service.config.proxy_out {
        tcp.write_all(&proxy_protocol::of_nobody(mode)?).await?;
    }
    Ok(tcp)
}

/// TLS was asked for in the clear, to no avail.
pub(super) fn not_begun(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionAborted => (CloseReason::Silent, None),
        io::ErrorKind::UnexpectedEof => {
            (CloseReason::TlsFailure, Some("closed before TLS began".into()))
        }
        _ => (CloseReason::TlsFailure, Some(error.to_string())),
    }
}

pub(super) fn unreached(target: &Target, error: &io::Error) -> Outcome {
    (CloseReason::ConnectFailure, Some(format!("cannot connect to {}: {error}", target.address)))
}

/// The name that the target's certificate must have.
pub(super) fn server_name(
    service: &Service,
    target: &Target,
) -> Result<ServerName<'static>, Outcome> {
    let named = match (&service.config.server_name, &target.address) {
        (Some(name), _) => name.clone(),
        (None, Address::Tcp { host, .. }) if !host.is_empty() => host.clone(),
        _ => "localhost".into(),
    };
    let shown = named.clone();
    ServerName::try_from(named).map_err(|_| own(format!("{shown:?} is not a name of a server")))
}

/// A target that was asked how it is and is left now, in order: what would end in a reset is an
/// error in its log.
pub(super) enum Parting {
    /// After a handshake.
    Tls(Box<SecuredRemote>),
    /// The target is told that it is not accepted.
    Refused(Box<SecuredRemote>),
    /// Without a handshake.
    Plain(TcpStream),
}

impl Parting {
    /// Ends our side, and hears the other out.
    pub(super) async fn leave(self) {
        match self {
            Self::Tls(far) => until_heard(&far.end()).await,
            Self::Refused(far) => far.refuse().await,
            Self::Plain(tcp) => until_heard(&tcp).await,
        }
    }
}

/// Connects to the first target that takes it, in the service's order, and says `header` there
/// before anything else. Each has its share of the time; one that fails is left out for a while.
pub(super) async fn dial(
    service: &Service,
    conn: &OpenConn,
    deadline: Instant,
    header: &[u8],
) -> Result<TcpStream, Outcome> {
    let mut tries = service.targets.tries(deadline);
    while let Some((target, share)) = tries.next() {
        let dialled = async {
            let mut stream = of_traffic(endpoint::connect(&target.address).await?)?;
            stream.write_all(header).await?;
            Ok(stream)
        };
        match tokio::time::timeout(share, dialled).await {
            Ok(Ok(stream)) => {
                tries.worked(target);
                conn.metadata(|f| f.dst_addr = endpoint::remote(&stream));
                return Ok(stream);
            }
            Ok(Err(error)) => {
                let (reason, why) = unreached(target, &error);
                tries.failed(target, reason, why.unwrap_or_default());
            }
            Err(_) => tries.late(target, share, service.config.connect),
        }
    }
    Err(tries.outcome())
}

pub(super) fn local_of(secured: &Secured) -> SocketAddr {
    let unknown = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
    endpoint::local(&secured.tcp).unwrap_or(unknown)
}
