//! Certificates in files of a folder of their own.

use std::{path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A CA, a server `localhost` and a client `spiffe://test/app`.
pub(crate) struct Pki {
    pub(crate) folder: tempfile::TempDir,
    ca: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    client: (CertificateDer<'static>, Vec<u8>),
}

impl Pki {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let root = params.self_signed(&key).unwrap();
        let ca = Issuer::new(params, key);
        std::fs::write(folder.path().join("ca.crt"), root.pem()).unwrap();
        let root = root.der().clone();
        let client = (root.clone(), Vec::new());
        let mut pki = Self { folder, ca, root, client };
        pki.issue("server", "localhost", None);
        pki.client = pki.issue("client", "app", Some("spiffe://test/app"));
        pki
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(
        &self,
        file: &str,
        name: &str,
        uri: Option<&str>,
    ) -> (CertificateDer<'static>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.extend(uri.map(|u| SanType::URI(u.try_into().unwrap())));
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{file}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
        (certificate.der().clone(), key.serialize_der())
    }

    /// `--cert …` and so on, for `server` or `client`.
    pub(crate) fn flags(&self, who: &str) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        ["--cert", &path(&format!("{who}.crt")), "--key", &path(&format!("{who}.key"))]
            .into_iter()
            .chain(["--cacert", &path("ca.crt")])
            .map(ToOwned::to_owned)
            .collect()
    }

    /// What `spiffe://test/app` connects with.
    pub(crate) fn tls(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let key = PrivateKeyDer::Pkcs8(self.client.1.clone().into());
        Arc::new(builder.with_client_auth_cert(vec![self.client.0.clone()], key).unwrap())
    }
}
