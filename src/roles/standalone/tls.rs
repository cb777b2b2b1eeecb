//! Credentials as rustls wants it, made once per change.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;
use rustls::{
    ClientConfig, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    client::Resumption,
    crypto::CryptoProvider,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};

use super::{Role, StartTls};
use crate::{
    credentials::store::Credentials,
    tls::{PeerTrust, PeerVerifier, Verifier, classic_provider, traffic_secrets},
};

/// A group of cipher suites of TLS 1.2; those of TLS 1.3 are not chosen among.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CipherGroup {
    /// AES-GCM.
    Aes,
    /// ChaCha20-Poly1305.
    ChaCha,
}

impl FromStr for CipherGroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "AES" => Ok(Self::Aes),
            "CHACHA" => Ok(Self::ChaCha),
            other => {
                Err(format!("{other:?} is not a group of cipher suites: must be AES or CHACHA"))
            }
        }
    }
}

impl CipherGroup {
    fn has(self, suite: &SupportedCipherSuite) -> bool {
        let name = suite.suite().as_str().unwrap_or_default();
        match self {
            Self::Aes => name.contains("_AES_"),
            Self::ChaCha => name.contains("_CHACHA20_"),
        }
    }
}

/// A protocol's name as ALPN has it (RFC 7301 §3.1): `h2`, `http/1.1`, `postgresql`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Alpn(String);

/// The longest name that ALPN can carry.
const LONGEST_ALPN: usize = 255;

impl FromStr for Alpn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = text.bytes().all(|byte| byte.is_ascii_graphic());
        match text {
            "acme-tls/1" => Err(format!("{text:?} is reserved for ACME challenges")),
            "" => Err("a protocol name must not be empty".into()),
            _ if text.contains(',') => Err(format!(
                "{text:?} is one name, not a list: write --alpn once for each protocol, or a list \
                 in YAML (alpn: [h2, http/1.1])"
            )),
            _ if text.len() > LONGEST_ALPN || !legal => {
                Err(format!("{text:?} is not a protocol name, such as h2 or postgresql"))
            }
            _ => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for Alpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the handshake offers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TlsOptions {
    /// TLS 1.2 and no newer.
    pub tls12_only: bool,
    /// TLS 1.3 and no older.
    pub tls13_only: bool,
    /// Cipher suites of TLS 1.2, the best first; none named are all.
    pub ciphers: Vec<CipherGroup>,
    /// Whether the peer must show a certificate (server), or ours is shown (client).
    pub authenticate: bool,
    /// Whether the peer may end without close_notify, as nginx' stream proxy does: somebody who can
    /// cut a connection can then make a part look like the whole (RFC 8446 §6.1).
    pub truncation: bool,
    /// The protocols that ALPN agrees on, the best first. A client offers them; a server takes the
    /// first of them that its client offers, and refuses a client that offers others alone. None
    /// named: a server says nothing, whatever is offered.
    pub alpn: Vec<Alpn>,
    /// What asks for TLS in the clear first: a server answers, a client asks.
    pub starttls: Option<StartTls>,
}

impl TlsOptions {
    /// What ALPN agrees on: what is named, else what the protocol that asks for TLS is called.
    fn protocols(&self) -> Vec<Vec<u8>> {
        match self.starttls {
            Some(protocol) if self.alpn.is_empty() => vec![protocol.alpn().into()],
            _ => self.alpn.iter().map(|Alpn(name)| name.clone().into_bytes()).collect(),
        }
    }
}

/// By role.
#[derive(Clone, Debug)]
pub(super) enum Config {
    Server(Arc<ServerConfig>),
    Client(Arc<ClientConfig>),
}

/// The configuration of the credentials that were last seen.
#[derive(Default)]
pub(super) struct Configs {
    made: ArcSwapOption<(Arc<Credentials>, Config)>,
}

impl Configs {
    /// The configuration for these credentials.
    pub(super) fn of(
        &self,
        credentials: &Arc<Credentials>,
        role: Role,
        options: &TlsOptions,
    ) -> Result<Config, String> {
        if let Some(made) = &*self.made.load()
            && Arc::ptr_eq(&made.0, credentials)
        {
            return Ok(made.1.clone());
        }
        let config = build(credentials, role, options)?;
        self.made.store(Some(Arc::new((Arc::clone(credentials), config.clone()))));
        Ok(config)
    }
}

/// The same configuration, which also notes the name that the client asks for (SNI): rustls does
/// not tell it after a handshake without buffers.
pub(super) fn noting_sni(config: &ServerConfig) -> (Arc<ServerConfig>, Arc<Asked>) {
    let asked =
        Arc::new(Asked { shown: Arc::clone(&config.cert_resolver), name: OnceLock::default() });
    let mut config = config.clone();
    config.cert_resolver = Arc::<Asked>::clone(&asked);
    (Arc::new(config), asked)
}

/// What one client asked for.
#[derive(Debug)]
pub(super) struct Asked {
    shown: Arc<dyn ResolvesServerCert>,
    name: OnceLock<String>,
}

impl Asked {
    /// The name, if there was one.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.get().map(String::as_str)
    }
}

impl ResolvesServerCert for Asked {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            let _ = self.name.set(name.to_owned());
        }
        self.shown.resolve(hello)
    }
}

/// Our provider with the suites that are wanted.
fn offering(ciphers: &[CipherGroup]) -> Arc<CryptoProvider> {
    let all = classic_provider();
    if ciphers.is_empty() {
        return all;
    }
    let place = |suite: &SupportedCipherSuite| match suite.tls13() {
        Some(_) => Some(0),
        None => ciphers.iter().position(|group| group.has(suite)).map(|n| n + 1),
    };
    let mut suites: Vec<_> =
        all.cipher_suites.iter().filter_map(|suite| Some((place(suite)?, *suite))).collect();
    suites.sort_by_key(|(place, _)| *place);
    let cipher_suites = suites.into_iter().map(|(_, suite)| suite).collect();
    Arc::new(CryptoProvider { cipher_suites, ..(*all).clone() })
}

/// Tickets and resumption are off: a resumed session would skip the checks on the peer.
pub(super) fn build(
    credentials: &Credentials,
    role: Role,
    options: &TlsOptions,
) -> Result<Config, String> {
    if let Some(why) = &credentials.gone {
        return Err(why.clone());
    }
    let wrong = |e: rustls::Error| e.to_string();
    let versions: &[&SupportedProtocolVersion] = match (options.tls12_only, options.tls13_only) {
        (false, false) => &[&TLS13, &TLS12],
        (true, false) => &[&TLS12],
        (false, true) => &[&TLS13],
        (true, true) => return Err("no TLS version is left".into()),
    };
    let demanded = options.authenticate;
    let key = credentials.key.clone().map(|key| Arc::new(SingleCertAndKey::from(key)));
    match role {
        Role::Server => {
            let builder = ServerConfig::builder_with_provider(offering(&options.ciphers))
                .with_protocol_versions(versions)
                .map_err(wrong)?;
            let builder = match demanded {
                true => builder.with_client_cert_verifier(verifier(credentials.trust.clone())?),
                false => builder.with_no_client_auth(),
            };
            let key = key.ok_or("a server needs a certificate and its key")?;
            let mut config = builder.with_cert_resolver(key);
            config.ignore_client_order = !options.ciphers.is_empty();
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config.alpn_protocols = options.protocols();
            config.enable_secret_extraction = true;
            config.key_log = traffic_secrets();
            Ok(Config::Server(Arc::new(config)))
        }
        Role::Client => {
            let builder = ClientConfig::builder_with_provider(offering(&options.ciphers))
                .with_protocol_versions(versions)
                .map_err(wrong)?
                .dangerous()
                .with_custom_certificate_verifier(verifier(credentials.trust.clone())?);
            let mut config = match key.filter(|_| demanded) {
                Some(key) => builder.with_client_cert_resolver(key),
                None => builder.with_no_client_auth(),
            };
            config.resumption = Resumption::disabled();
            config.alpn_protocols = options.protocols();
            config.enable_secret_extraction = true;
            config.key_log = traffic_secrets();
            Ok(Config::Client(Arc::new(config)))
        }
    }
}

fn verifier(trust: PeerTrust) -> Result<Arc<Verifier<PeerVerifier>>, String> {
    Ok(Verifier::new(PeerVerifier::new(trust, true)?, classic_provider()))
}
