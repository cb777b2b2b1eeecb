//! An intermediate from files, whose root the operator keeps elsewhere. The files are taken only
//! if they verify together: a probe that the intermediate signs must lead to the bundle.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{Context, SHA256};
use pki_types::{CertificateDer, UnixTime};
use rcgen::{Issuer, KeyPair};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    error::CaError,
    leaf,
    signer::{Signer, at, check_ca, hex, key_id, read_key, validity},
    store,
};
use crate::identity::{
    BundleSet, Purpose, SpiffeId, TrustBundle, TrustDomain, pem, shown, verify_svid,
};

/// Where an intermediate is found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    /// The intermediate, and further ones up to but without the root, PEM.
    pub certificate: PathBuf,
    /// The intermediate's key, PEM.
    pub private_key: PathBuf,
    /// The roots, PEM.
    pub bundle: PathBuf,
}

/// What the files said.
#[derive(Clone)]
pub(super) struct UpstreamCredentials {
    pub(super) signer: Arc<Signer>,
    pub(super) roots: Vec<CertificateDer<'static>>,
}

impl UpstreamCredentials {
    /// What is published of it: changes when the roots or the signing key do.
    pub(super) fn digest(&self) -> String {
        let mut context = Context::new(&SHA256);
        self.roots.iter().chain(&self.signer.chain).for_each(|der| context.update(der));
        hex(context.finish().as_ref())
    }
}

impl Upstream {
    /// The files whose change is looked for.
    pub(super) fn files(&self) -> [&PathBuf; 3] {
        [&self.certificate, &self.private_key, &self.bundle]
    }

    /// Which of them is at `path`.
    pub(super) fn file_at(&self, path: &Path) -> Option<&PathBuf> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        self.files().into_iter().find(|file| real(file) == real(path))
    }

    /// Whether the files fit together now.
    ///
    /// # Errors
    /// Which is wrong, and how.
    pub fn check(&self, trust_domain: &TrustDomain) -> Result<(), CaError> {
        self.load(trust_domain).map(drop)
    }

    pub(super) fn load(&self, trust_domain: &TrustDomain) -> Result<UpstreamCredentials, CaError> {
        let mut chain = certificates(&self.certificate)?;
        let roots = certificates(&self.bundle)?;
        // Some tools write the root behind the intermediates; a chain is sent without it.
        chain.retain(|der| !roots.contains(der));
        let path = &self.certificate;
        let certificate = chain.first().cloned().ok_or_else(|| {
            let why =
                "contains no intermediate certificate, only authorities of the bundle; sign an \
                 intermediate with the root";
            CaError::file(path, why)
        })?;
        let (key, key_version) = read_key(&self.private_key)?;
        let id: Arc<str> = key_id(&key).into();
        let key_name = shown(&self.private_key);
        let mut not_after = check_ca(&certificate, &key, &key_name, trust_domain)
            .map_err(|why| CaError::file(path, why.replace("is the root of", "is the CA of")))?;
        for der in &chain[1..] {
            let (_, cert) = X509Certificate::from_der(der)
                .map_err(|e| CaError::file(path, format!("has a bad certificate: {e}")))?;
            not_after = not_after.min(at(validity(&cert).1));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|e| CaError::file(path, format!("cannot issue: {e}")))?;
        let key_path = self.private_key.clone();
        let if_changed = "changed, and does not match its certificate: replace the certificate too";
        let signer =
            Signer { id, issuer, certificate, chain, not_after, key_path, key_version, if_changed };
        probe(&signer, &roots, trust_domain).map_err(|why| {
            let bundle = shown(&self.bundle);
            let why = format!("an SVID under it would not verify against {bundle}: {why}");
            CaError::file(path, why)
        })?;
        Ok(UpstreamCredentials { signer: Arc::new(signer), roots })
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let text = store::read(path)?;
    match pem::certificates(text.as_bytes()) {
        Ok(all) if (1..=16).contains(&all.len()) => Ok(all),
        Ok(all) => Err(CaError::file(
            path,
            format!("contains {} PEM certificates, expected 1 to 16", all.len()),
        )),
        Err(e) => Err(CaError::file(path, e.to_string())),
    }
}

fn probe(
    signer: &Signer,
    roots: &[CertificateDer<'static>],
    trust_domain: &TrustDomain,
) -> Result<(), String> {
    let id: SpiffeId =
        format!("spiffe://{trust_domain}/adit/probe").parse().map_err(|e| format!("{e}"))?;
    let key = KeyPair::generate().map_err(|e| e.to_string())?;
    let lifetime = std::time::Duration::from_secs(60);
    let chain = leaf::sign(signer, &id, &key, lifetime).map_err(|e| e.to_string())?.chain;
    let bundle = TrustBundle::new(trust_domain.clone(), roots.to_vec());
    let bundles: BundleSet = [bundle].into_iter().collect();
    for purpose in [Purpose::Client, Purpose::Server] {
        verify_svid(&chain, &bundles, UnixTime::now(), purpose).map_err(|e| e.to_string())?;
    }
    Ok(())
}
