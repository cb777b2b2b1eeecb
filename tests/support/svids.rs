//! A root, the SVIDs it signs, and other libraries' TLS configurations that use them.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use adit::identity::{
    BundleSet, LocalIdentity, PrivateKey, SpiffeId, TrustBundle, X509Svid, parse_leaf,
};
use pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, SupportedCipherSuite, crypto::CryptoProvider};

#[path = "pki.rs"]
mod pki;

use pki::{Ca, ip, uri};

/// A mesh's root.
pub(crate) struct Root {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) pem: String,
    ca: Ca,
}

/// The one that most tests share.
pub(crate) static ROOT: LazyLock<Root> = LazyLock::new(Root::new);

/// A certificate with its key, for whoever is not adit.
pub(crate) struct Leaf {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) pem: String,
    signed: pki::Leaf,
}

impl Leaf {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.signed.key()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.signed.key_pem.clone()
    }
}

pub(crate) fn spiffe(name: &str) -> SpiffeId {
    format!("spiffe://td/ns/shop/sa/{name}").parse().expect("a SPIFFE ID")
}

impl Root {
    fn new() -> Self {
        let ca = Ca::new("a mesh", None);
        Self { der: ca.root.clone(), pem: ca.pem.clone(), ca }
    }

    /// An SVID that is also good for 127.0.0.1, as other libraries want a name they know.
    pub(crate) fn leaf(&self, name: &str) -> Leaf {
        self.leaf_for(name, Duration::from_secs(3600))
    }

    fn leaf_for(&self, name: &str, lifetime: Duration) -> Leaf {
        let signed = self.ca.leaf("an SVID", |params| {
            params.not_after = time::OffsetDateTime::now_utc() + lifetime;
            params.subject_alt_names = vec![uri(spiffe(name).as_str()), ip("127.0.0.1")];
        });
        Leaf { der: signed.chain[0].clone(), pem: signed.pem.clone(), signed }
    }

    /// The same as adit keeps it.
    pub(crate) fn own(&self, name: &str) -> LocalIdentity {
        self.own_for(name, Duration::from_secs(3600))
    }

    pub(crate) fn own_for(&self, name: &str, lifetime: Duration) -> LocalIdentity {
        let leaf = self.leaf_for(name, lifetime);
        let facts = parse_leaf(&leaf.der).expect("an SVID");
        let svid = X509Svid {
            id: facts.id,
            chain: vec![leaf.der.clone()],
            key: PrivateKey::from_pkcs8(leaf.key().secret_der().to_vec()),
            not_before: facts.not_before,
            not_after: facts.not_after,
            serial: facts.serial,
        };
        let trust_domain = "td".parse().expect("a trust domain");
        let bundle = TrustBundle::new(trust_domain, vec![self.der.clone()]);
        let bundles: BundleSet = [bundle].into_iter().collect();
        LocalIdentity { svid: Arc::new(svid), bundles: Arc::new(bundles) }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a root");
        roots
    }

    /// rustls as a client of ours, with nothing but `suite`.
    pub(crate) fn rustls_client(
        &self,
        name: &str,
        suite: SupportedCipherSuite,
    ) -> rustls::ClientConfig {
        self.rustls_client_for(name, suite, Duration::from_secs(3600))
    }

    pub(crate) fn rustls_client_for(
        &self,
        name: &str,
        suite: SupportedCipherSuite,
        lifetime: Duration,
    ) -> rustls::ClientConfig {
        let leaf = self.leaf_for(name, lifetime);
        let mut config = rustls::ClientConfig::builder_with_provider(only(suite))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(self.roots())
            .with_client_auth_cert(vec![leaf.der.clone()], leaf.key())
            .expect("a usable certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// rustls as a server for ours: it sends tickets, as most servers do.
    pub(crate) fn rustls_server(
        &self,
        name: &str,
        suite: SupportedCipherSuite,
    ) -> rustls::ServerConfig {
        let leaf = self.leaf(name);
        let roots = Arc::new(self.roots());
        let clients =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots, only(suite));
        let mut config = rustls::ServerConfig::builder_with_provider(only(suite))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(clients.build().expect("a verifier"))
            .with_single_cert(vec![leaf.der.clone()], leaf.key())
            .expect("a usable certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

fn only(suite: SupportedCipherSuite) -> Arc<CryptoProvider> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Arc::new(CryptoProvider { cipher_suites: vec![suite], ..provider })
}
