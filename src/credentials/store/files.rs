//! Credentials from files.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::SystemTime,
};

use futures_util::future::{BoxFuture, FutureExt as _};
use pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::sign::CertifiedKey;

use super::{
    config::{CredentialSource, CredentialsConfig, Token},
    credentials::{Credentials, certified},
    provider::{CredentialProvider, Update},
};
use crate::{
    credentials::{
        acme::ServePort,
        file_watch::{ANEW, FileReader, FileWatch},
        roots::trusted,
    },
    identity::{
        BundleSet, LocalIdentity, PeerCert, PrivateKey, TrustBundle, X509Svid,
        key_files::{self, at, certificates, password_in},
        parse_leaf,
    },
    lifecycle::WatchedFile,
    tls::{Expiries, PeerTrust, pkcs11},
};

/// Reads certificate, key, roots and CRLs of one service, and watches them.
pub(super) struct FileProvider {
    config: CredentialsConfig,
    reader: FileReader,
    /// Before they were first read.
    files: WatchedFile,
    /// Whether what is in use trusts somebody.
    trusts: AtomicBool,
}

impl FileProvider {
    /// Reads them for the first time, however long that takes.
    pub(super) async fn open(config: CredentialsConfig) -> Result<(Self, Credentials), String> {
        // Before they are read: what changes from here on is seen.
        let files = WatchedFile::of_all(config.files());
        let beside = config.on_token().then_some("the PKCS#11 token");
        let reader = FileReader::new(config.files(), beside);
        let read = config.clone();
        let first = reader.wait(move || credentials(&read)).await?;
        let trusts = AtomicBool::new(!first.trust.is_empty());
        Ok((Self { config, reader, files, trusts }, first))
    }

    async fn read(&self) -> Result<Credentials, String> {
        let (before, config) = (self.files.versions(), self.config.clone());
        let new = self.reader.read(move || credentials(&config)).await?;
        if self.files.versions() != before {
            return Err("files were written while they were read".to_owned());
        }
        // Those of the system, taken away under us.
        if new.trust.is_empty() && self.trusts.load(Relaxed) {
            return Err("the system no longer has trusted roots".into());
        }
        self.trusts.store(!new.trust.is_empty(), Relaxed);
        Ok(new)
    }
}

impl CredentialProvider for FileProvider {
    fn reload(&self) -> BoxFuture<'_, Option<Result<Credentials, String>>> {
        self.read().map(Some).boxed()
    }

    fn follow<'a>(
        &'a self,
        _port: ServePort,
        tell: &'a (dyn Fn(Update) + Send + Sync),
    ) -> BoxFuture<'a, ()> {
        async move {
            // A token counts wrong PINs, and locks itself: it is asked again when something
            // changed.
            let anew = (!self.config.on_token()).then_some(ANEW);
            let mut watch = FileWatch::new(self.files.clone(), anew);
            loop {
                match watch.next(|| self.read()).await {
                    Ok(new) => {
                        tell(Update::Given(Arc::new(new)));
                        let files = watch.changed();
                        tracing::info!(target: "svid", files, "changed files reloaded");
                    }
                    Err(error) => {
                        tracing::warn!(
                            target: "svid", error,
                            "changed files rejected; keeping the previous ones"
                        );
                        tell(Update::Refused(error));
                    }
                }
            }
        }
        .boxed()
    }
}

/// All of it as it is now, if it fits together.
fn credentials(config: &CredentialsConfig) -> Result<Credentials, String> {
    let CredentialsConfig::Files { credential, password, roots, crls, stale, pins } = config else {
        return Err("these credentials do not come from files".into());
    };
    let (mut key, mut own, mut not_after, mut source) = (None, None, None, "none".to_owned());
    let (mut svid, mut ends, mut shown_chain) = (None, Expiries::default(), Vec::new());
    let crls: Vec<_> =
        crls.iter().map(|path| key_files::crls(path)).collect::<Result<Vec<_>, _>>()?;
    let crls: Vec<_> = crls.into_iter().flatten().collect();
    if let Some(shown) = credential {
        let (path, chain, private) = match shown {
            CredentialSource::Files(files) => {
                let (chain, private) = files.read(password.as_ref().map(|p| p.0.as_str()))?;
                (files.file().to_owned(), chain, Some(private))
            }
            CredentialSource::Acme(acme) => {
                let (chain, private) = acme.credential().read(None)?;
                (acme.file(), chain, Some(private))
            }
            CredentialSource::Token { certificate, .. } => {
                (certificate.clone(), certificates(certificate)?, None)
            }
        };
        source = match shown {
            CredentialSource::Acme(acme) => format!("ACME {}", acme.directory),
            _ => format!("file {}", crate::identity::shown(&path)),
        };
        own = PeerCert::of(&chain);
        shown_chain.clone_from(&chain);
        not_after = own.as_ref().and_then(|own| own.not_after);
        if let Some(end) = not_after.filter(|end| *end <= SystemTime::now()) {
            let until = humantime::format_rfc3339_seconds(end);
            let why = format!(
                "the certificate has expired: it was valid until {until}; renew it, and put the \
                 new one in its place"
            );
            return Err(at(&path, why));
        }
        key = match (shown, &private) {
            (_, Some(private)) => {
                Some(certified(chain.clone(), private).map_err(|why| at(&path, why))?)
            }
            (CredentialSource::Token { token, .. }, None) => {
                let label = token.label.as_deref().unwrap_or("of the module");
                source = format!("{source}, key on PKCS#11 token {label}");
                Some(on_token(chain.clone(), token).map_err(|why| at(&path, why))?)
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
        ends = Expiries::of(watched, &crls);
        PeerTrust::Roots { roots: trusted.into(), crls: crls.into(), stale: *stale }
    } else {
        PeerTrust::Pinned(pins.as_slice().into())
    };
    let ends = match credential {
        // It is renewed here, and a failure of that is told.
        Some(CredentialSource::Acme(_)) => ends.and_own(&shown_chain),
        _ => ends.and_own(&shown_chain).and_leaf(&shown_chain),
    };
    Ok(Credentials { key, trust, own, svid, not_after, source, ends, gone: None })
}

/// The key of a certificate, which stays on its token.
fn on_token(
    chain: Vec<CertificateDer<'static>>,
    token: &Token,
) -> Result<Arc<CertifiedKey>, String> {
    let pin = token.pin_file.as_deref();
    let pin = pin.map(|file| password_in("`pinFile` or --pkcs11-pin-file", file)).transpose()?;
    let pin = token.pin.as_ref().map(|pin| pin.0.clone()).or(pin);
    let (module, label) = (token.module.clone(), token.label.clone());
    let leaf = chain.first().ok_or("contains no PEM certificate")?;
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
    let svid = Arc::new(X509Svid::of(leaf, chain, key));
    Some(LocalIdentity { svid, bundles: Arc::new(bundles) })
}
