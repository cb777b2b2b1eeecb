//! TLS peers that are not adit: rustls over blocking sockets.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    ops::{Deref, DerefMut},
    sync::Arc,
};

use pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig,
    ServerConnection, SideData, StreamOwned, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

use crate::{
    backends::{Backend, patient},
    pki::{Ca, Leaf},
};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(ca: &Ca) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add(ca.root.clone()).unwrap();
    Arc::new(store)
}

pub(crate) const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
pub(crate) const ONLY13: &[&SupportedProtocolVersion] = &[&TLS13];
pub(crate) const ONLY12: &[&SupportedProtocolVersion] = &[&TLS12];

/// A client that trusts `ca`, and shows a certificate or none.
#[derive(Clone)]
pub(crate) struct Caller {
    config: Arc<ClientConfig>,
    name: &'static str,
}

impl Caller {
    pub(crate) fn new(ca: &Ca, leaf: Option<&Leaf>) -> Self {
        Self::speaking(BOTH, ca, leaf)
    }

    pub(crate) fn speaking(
        versions: &[&'static SupportedProtocolVersion],
        ca: &Ca,
        leaf: Option<&Leaf>,
    ) -> Self {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots(ca));
        let config = match leaf {
            Some(leaf) => builder.with_client_auth_cert(leaf.chain.clone(), leaf.key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        Self { config: Arc::new(config), name: "localhost" }
    }

    /// Offers these by ALPN.
    pub(crate) fn offering(mut self, protocols: &[&str]) -> Self {
        let offered = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::make_mut(&mut self.config).alpn_protocols = offered;
        self
    }

    /// How it speaks TLS.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    pub(crate) fn over(&self, socket: TcpStream) -> io::Result<Session<ClientConnection>> {
        let name = ServerName::try_from(self.name).unwrap();
        let tls = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        Session::begin(tls, socket)
    }

    pub(crate) fn dial(&self, addr: SocketAddr) -> io::Result<Session<ClientConnection>> {
        let socket = TcpStream::connect(addr)?;
        patient(&socket);
        self.over(socket)
    }

    /// Dials, says it, and hears as many bytes again.
    pub(crate) fn says(&self, addr: SocketAddr, words: &str) -> io::Result<String> {
        let mut session = self.dial(addr)?;
        session.write_all(words.as_bytes())?;
        let mut heard = vec![0; words.len()];
        session.read_exact(&mut heard)?;
        session.end()?;
        Ok(String::from_utf8(heard).unwrap())
    }
}

/// A TLS connection after its handshake.
pub(crate) struct Session<C>(pub(crate) StreamOwned<C, TcpStream>)
where
    C: DerefMut;

impl<C, S> Session<C>
where
    C: DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    fn begin(mut tls: C, mut socket: TcpStream) -> io::Result<Self> {
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Self(StreamOwned::new(tls, socket)))
    }

    /// Says close_notify; the other side may go on.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.0.conn.send_close_notify();
        self.0.flush()
    }

    /// What comes until close_notify; an error if the end is not one in order.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut heard = Vec::new();
        self.0.read_to_end(&mut heard)?;
        Ok(heard)
    }

    /// The next `n` bytes.
    pub(crate) fn hear(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let mut heard = vec![0; n];
        self.0.read_exact(&mut heard)?;
        Ok(heard)
    }

    /// The socket, as it lies below.
    pub(crate) fn into_socket(self) -> TcpStream {
        self.0.sock
    }
}

impl<C: DerefMut> Deref for Session<C> {
    type Target = StreamOwned<C, TcpStream>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<C: DerefMut> DerefMut for Session<C> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// What a TLS server demands of its clients.
#[derive(Clone, Copy)]
pub(crate) enum Demand<'a> {
    Nothing,
    /// A certificate of this CA.
    Of(&'a Ca),
}

/// A TLS server in front of which adit is the client.
pub(crate) fn tls_backend(
    versions: &[&'static SupportedProtocolVersion],
    leaf: &Leaf,
    demand: Demand<'_>,
    serve: impl Fn(Session<ServerConnection>) + Send + Sync + 'static,
) -> Backend {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let builder = match demand {
        Demand::Nothing => builder.with_no_client_auth(),
        Demand::Of(ca) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(roots(ca), provider()).build().unwrap(),
        ),
    };
    let mut config = builder.with_single_cert(leaf.chain.clone(), leaf.key()).unwrap();
    config.send_tls13_tickets = 2;
    let config = Arc::new(config);
    Backend::start(move |socket| {
        let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        if let Ok(session) = Session::begin(tls, socket) {
            serve(session);
        }
    })
}

/// Begins sessions that agree on a protocol by ALPN, and asks no certificate.
pub(crate) fn alpn_session(
    leaf: &Leaf,
    protocols: &[&str],
) -> impl Fn(TcpStream) -> io::Result<Session<ServerConnection>> + Send + Sync + 'static {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(BOTH);
    let builder = builder.unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(leaf.chain.clone(), leaf.key()).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let config = Arc::new(config);
    move |socket| Session::begin(ServerConnection::new(Arc::clone(&config)).unwrap(), socket)
}

/// Says back what it hears until close_notify, and then says it too.
pub(crate) fn tls_echo(mut session: Session<ServerConnection>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = crate::wait::read_once(&mut session.0, &mut buffer) {
        if session.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
    let _ = session.end();
}

/// A client that shows a chain with whatever key it has.
pub(crate) fn careless(
    ca: &Ca,
    chain: &[pki_types::CertificateDer<'static>],
    key: pki_types::PrivateKeyDer<'static>,
) -> Caller {
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(chain.to_vec(), key);
    let shown = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(ONLY13)
        .unwrap()
        .with_root_certificates(roots(ca))
        .with_client_cert_resolver(shown);
    Caller { config: Arc::new(config), name: "localhost" }
}
