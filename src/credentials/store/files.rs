//! Credentials from files, and whether those have changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::sign::CertifiedKey;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    config::{CredentialSource, CredentialsConfig, Token},
    credentials::{Credentials, certified},
};
use crate::{
    credentials::{Credential, roots::trusted},
    identity::{
        BundleSet, LocalIdentity, PeerCert, PrivateKey, TrustBundle, X509Svid,
        key_files::{self, at, bytes, certificates, keystore_chain, password_in, private_key},
        parse_leaf,
    },
    tls::{Ends, PeerTrust, pkcs11},
};

/// How long files may take to be read anew: one may have become a pipe.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(5);

/// Files are read beside the control thread: a keystore's key derivation may take a while.
pub(super) async fn read(
    config: &CredentialsConfig,
    turn: Option<OwnedSemaphorePermit>,
) -> Result<Credentials, String> {
    let config = config.clone();
    let read = tokio::task::spawn_blocking(move || {
        let read = read_now(&config);
        drop(turn);
        read
    });
    read.await.map_err(|e| format!("reading files: {e}"))?
}

fn read_now(config: &CredentialsConfig) -> Result<Credentials, String> {
    let CredentialsConfig::Files { credential, password, roots, crls, stale, pins } = config else {
        return Err("not a matter of files".into());
    };
    let (mut key, mut own, mut not_after, mut source) = (None, None, None, "none".to_owned());
    let (mut svid, mut ends, mut shown_chain) = (None, Ends::default(), Vec::new());
    let crls: Vec<_> =
        crls.iter().map(|path| key_files::crls(path)).collect::<Result<Vec<_>, _>>()?;
    let crls: Vec<_> = crls.into_iter().flatten().collect();
    let ordered;
    if let Some(shown) = credential {
        let (path, (chain, private)) = match shown {
            CredentialSource::Files(Credential::Pem { certificate, private_key: file }) => {
                (certificate, (certificates(certificate)?, Some(private_key(file)?)))
            }
            CredentialSource::Files(Credential::Keystore { keystore, password: file }) => {
                let file = file.as_deref().map(password_in).transpose()?;
                let password = password.as_ref().map(|p| &p.0).or(file.as_ref());
                let (chain, private) = keystore_or_pem(keystore, password.map_or("", |p| p))?;
                (keystore, (chain, Some(private)))
            }
            CredentialSource::Acme(acme) => {
                ordered = acme.file();
                (&ordered, (certificates(&ordered)?, Some(private_key(&ordered)?)))
            }
            CredentialSource::Token { certificate, .. } => {
                (certificate, (certificates(certificate)?, None))
            }
        };
        source = match shown {
            CredentialSource::Acme(acme) => format!("ACME {}", acme.directory),
            _ => format!("file {}", crate::identity::shown(path)),
        };
        own = PeerCert::of(&chain);
        shown_chain.clone_from(&chain);
        not_after = end_of(&chain);
        if not_after.is_some_and(|end| end <= SystemTime::now()) {
            return Err(at(path, "the certificate has expired"));
        }
        key = match (shown, &private) {
            (_, Some(private)) => {
                Some(certified(chain.clone(), private).map_err(|why| at(path, why))?)
            }
            (CredentialSource::Token { token, .. }, None) => {
                let label = token.label.as_deref().unwrap_or("of the module");
                source = format!("{source}, key on PKCS#11 token {label}");
                Some(on_token(chain.clone(), token).map_err(|why| at(path, why))?)
            }
            (_, None) => None,
        };
        if let (Some(roots), Some(private)) = (roots, private) {
            svid = svid_of(chain, private, certificates(roots)?, crls.clone());
        }
    }
    let trust = if pins.is_empty() {
        let trusted = trusted(roots.as_ref())?;
        // The system's list is its distributor's to keep.
        let watched = if roots.is_some() { &trusted[..] } else { &[] };
        ends = Ends::of(watched, &crls);
        PeerTrust::Roots { roots: trusted.into(), crls: crls.into(), stale: *stale }
    } else {
        PeerTrust::Pinned(pins.as_slice().into())
    };
    let ends = ends.and_own(&shown_chain);
    Ok(Credentials { key, trust, own, svid, not_after, source, ends, gone: None })
}

/// The key of a certificate, which stays on its token.
fn on_token(
    chain: Vec<CertificateDer<'static>>,
    token: &Token,
) -> Result<Arc<CertifiedKey>, String> {
    let pin = token.pin_file.as_deref().map(password_in).transpose()?;
    let pin = token.pin.as_ref().map(|pin| pin.0.clone()).or(pin);
    let (module, label) = (token.module.clone(), token.label.clone());
    let leaf = chain.first().ok_or("holds no certificate")?;
    let key = pkcs11::open(pkcs11::TokenConfig { module, label, pin }, leaf)?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

/// The certificate as an X.509-SVID whose trust domain has these roots, if it is one.
fn svid_of(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    roots: Vec<CertificateDer<'static>>,
    crls: Vec<CertificateRevocationListDer<'static>>,
) -> Option<LocalIdentity> {
    let leaf = parse_leaf(chain.first()?).ok()?;
    let mut bundle = TrustBundle::new(leaf.id.trust_domain().clone(), roots);
    bundle.crls = crls;
    let bundles: BundleSet = [bundle].into_iter().collect();
    let (not_before, not_after, serial) = (leaf.not_before, leaf.not_after, leaf.serial);
    let svid = X509Svid { id: leaf.id, chain, key, not_before, not_after, serial };
    Some(LocalIdentity { svid: Arc::new(svid), bundles: Arc::new(bundles) })
}

/// A keystore is PKCS#12, or certificates and key in one PEM file.
pub(super) fn keystore_or_pem(
    path: &Path,
    password: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKey), String> {
    let start = bytes(path)?;
    match start.get(..4) {
        Some([0xCE, 0xCE, 0xCE, 0xCE] | [0xFE, 0xED, 0xFE, 0xED]) => Err(at(
            path,
            "is a Java keystore (JKS or JCEKS); `keytool -importkeystore -deststoretype pkcs12` \
             converts it",
        )),
        _ if start.windows(11).take(65_536).any(|w| w == b"-----BEGIN ") => {
            Ok((certificates(path)?, private_key(path)?))
        }
        _ => keystore_chain(path, password),
    }
}

fn end_of(chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
    let end = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(end))
}

/// What to say when they took longer.
pub(super) fn unread(config: &CredentialsConfig) -> String {
    let no_file = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
    match config.files().iter().find(no_file) {
        Some(path) => at(path, "is a pipe that nobody writes to"),
        None if config.on_token() => {
            format!("the PKCS#11 token did not answer within {READ_WITHIN:?}")
        }
        None => format!("files could not be read within {READ_WITHIN:?}"),
    }
}
