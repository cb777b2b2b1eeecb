//! Certificates of a small company: one CA, another one nobody trusts, and a folder of files.
#![allow(dead_code, clippy::unwrap_used, reason = "each binary takes what it needs")]

use std::{fs, path::PathBuf, time::Duration};

use pki_types::{CertificateDer, PrivateKeyDer};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose as Ku, RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    pub(crate) pem: String,
    pub(crate) key_pem: String,
    /// SubjectPublicKeyInfo, DER.
    pub(crate) spki: Vec<u8>,
}

impl Leaf {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone().into())
    }
}

pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root: CertificateDer<'static>,
    pub(crate) pem: String,
}

impl Ca {
    /// An X.509-SVID's authority has its trust domain's `id` (X509-SVID §3.1).
    pub(crate) fn new(name: &str, id: Option<&str>) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![Ku::KeyCertSign, Ku::CrlSign];
        params.subject_alt_names.extend(id.map(uri));
        let root = params.self_signed(&key).unwrap();
        let (der, pem) = (root.der().clone(), root.pem());
        Self { issuer: Issuer::new(params, key), root: der, pem }
    }

    /// A leaf for both purposes, for a quarter of an hour, unless `change` says otherwise.
    pub(crate) fn leaf(&self, cn: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        self.leaf_of(&rcgen::PKCS_ECDSA_P256_SHA256, cn, change)
    }

    /// The same with a key of this kind.
    pub(crate) fn leaf_of(
        &self,
        kind: &'static rcgen::SignatureAlgorithm,
        cn: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let key = KeyPair::generate_for(kind).unwrap();
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, cn);
        params.not_before = now - Duration::from_secs(60);
        params.not_after = now + Duration::from_secs(900);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![Ku::DigitalSignature];
        params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            chain: vec![cert.der().clone()],
            key: key.serialize_der(),
            pem: cert.pem(),
            key_pem: key.serialize_pem(),
            spki: rcgen::PublicKeyData::subject_public_key_info(&key),
        }
    }

    /// A leaf of the names and the key of a PKCS#10 request, PEM.
    pub(crate) fn sign(&self, csr: &str) -> String {
        self.sign_as(csr, |_| {})
    }

    /// The same, unless `change` says otherwise.
    pub(crate) fn sign_as(&self, csr: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut asked = CertificateSigningRequestParams::from_pem(csr).unwrap();
        let now = OffsetDateTime::now_utc();
        asked.params.not_before = now - Duration::from_secs(60);
        asked.params.not_after = now + Duration::from_secs(900);
        asked.params.is_ca = IsCa::ExplicitNoCa;
        asked.params.key_usages = vec![Ku::DigitalSignature];
        asked.params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
        change(&mut asked.params);
        asked.signed_by(&self.issuer).unwrap().pem()
    }

    /// What a server that only its clients trust makes for itself: it certifies nobody.
    pub(crate) fn self_signed(name: &str) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "cluster.local");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![Ku::DigitalSignature, Ku::KeyEncipherment];
        params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
        params.subject_alt_names = vec![dns(name)];
        let cert = params.self_signed(&key).unwrap();
        Leaf {
            chain: vec![cert.der().clone()],
            key: key.serialize_der(),
            pem: cert.pem(),
            key_pem: key.serialize_pem(),
            spki: rcgen::PublicKeyData::subject_public_key_info(&key),
        }
    }

    /// Its certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A CA below this one, and its certificate.
    pub(crate) fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![Ku::KeyCertSign, Ku::CrlSign];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let (root, pem) = (cert.der().clone(), cert.pem());
        Self { issuer: Issuer::new(params, key), root, pem }
    }

    /// A list that revokes these serial numbers, PEM.
    pub(crate) fn crl(&self, serials: &[u64]) -> String {
        self.crl_for(serials, Duration::from_secs(3600))
    }

    /// The same with a nextUpdate so far from now.
    pub(crate) fn crl_for(&self, serials: &[u64], lasts: Duration) -> String {
        let serials: Vec<_> = serials.iter().map(|serial| SerialNumber::from(*serial)).collect();
        self.crl_naming(&serials, lasts)
    }

    /// The same of serial numbers of any length.
    pub(crate) fn crl_naming(&self, serials: &[SerialNumber], lasts: Duration) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &SerialNumber| RevokedCertParams {
            serial_number: serial.clone(),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + lasts,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

pub(crate) fn ip(text: &str) -> SanType {
    SanType::IpAddress(text.parse().unwrap())
}

/// The names of the server that everybody knows.
pub(crate) fn as_server(params: &mut CertificateParams) {
    params.distinguished_name.push(DnType::OrganizationalUnitName, "databases");
    params.subject_alt_names =
        vec![dns("localhost"), dns("db.example.org"), ip("127.0.0.1"), uri("spiffe://td.test/db")];
}

/// The names of a client that uses all kinds of them.
pub(crate) fn as_app(params: &mut CertificateParams) {
    params.distinguished_name.push(DnType::OrganizationalUnitName, "billing");
    params.subject_alt_names =
        vec![dns("app.example.org"), ip("192.0.2.7"), uri("spiffe://td.test/apps/billing/7")];
}

/// A folder with `ca.pem`, `server.crt`, `server.key`, `app.crt`, `app.key`; gone when dropped.
pub(crate) struct Pki {
    dir: tempfile::TempDir,
    pub(crate) ca: Ca,
    pub(crate) server: Leaf,
    /// CN `app`.
    pub(crate) app: Leaf,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let company = Ca::new("company CA", Some("spiffe://td.test"));
        Self::of(company, |ca| (ca.leaf("server", as_server), ca.leaf("app", as_app)))
    }

    /// With another CA, a server and an application of other names.
    pub(crate) fn of(ca: Ca, leaves: impl FnOnce(&Ca) -> (Leaf, Leaf)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (server, app) = leaves(&ca);
        let pki = Self { dir, ca, server, app };
        pki.write("ca.pem", &pki.ca.pem);
        pki.put("server", &pki.server);
        pki.put("app", &pki.app);
        pki
    }

    pub(crate) fn stranger() -> Ca {
        Ca::new("nobody's CA", Some("spiffe://td.test"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The path as it goes into a command line.
    pub(crate) fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Replaces a file as a whole.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    /// `NAME.crt`, `NAME.key`.
    pub(crate) fn put(&self, name: &str, leaf: &Leaf) {
        self.write(&format!("{name}.crt"), &leaf.pem);
        self.write(&format!("{name}.key"), &leaf.key_pem);
    }

    /// Both in one file.
    pub(crate) fn put_combined(&self, name: &str, leaf: &Leaf) {
        self.write(name, format!("{}{}", leaf.key_pem, leaf.pem));
    }

    /// The flags for a credential.
    pub(crate) fn showing(&self, name: &str) -> String {
        let (crt, key) = (format!("{name}.crt"), format!("{name}.key"));
        format!("--cert {} --key {} --cacert {}", self.at(&crt), self.at(&key), self.at("ca.pem"))
    }

    /// `server` before this target, at a free port, with the server's certificate.
    pub(crate) fn server(&self, target: impl std::fmt::Display) -> String {
        format!("server --listen 127.0.0.1:0 --target {target} {} ", self.showing("server"))
    }

    /// `client` of this target, at a free port, with the app's certificate.
    pub(crate) fn client(&self, target: impl std::fmt::Display) -> String {
        format!("client --listen 127.0.0.1:0 --target {target} {} ", self.showing("app"))
    }
}
