//! Chains to roots from files or of the system (RFC 5280 §6), judged as strictly as X.509-SVIDs
//! are: a root counts only within its validity, and an intermediate has cA and keyCertSign.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::{
    CertificateError, Error, OtherError, RootCertStore,
    client::{
        WebPkiServerVerifier,
        danger::{ServerCertVerified, ServerCertVerifier},
    },
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList,
};

use super::{provider::classic_provider, shown};
use crate::identity::check_signer;

/// What a CRL past its nextUpdate means.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StaleCrls {
    /// Whoever its issuer certified is refused: somebody may be revoked without it saying so.
    #[default]
    Refuse,
    /// It is used all the same, with a warning.
    Warn,
}

/// Why a chain to a root is refused, beyond what rustls finds.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
enum Refusal {
    #[error("the root {0} that the certificate leads to is not valid now (from {1} until {2})")]
    Root(String, String, String),
    #[error("{0}")]
    Signer(String),
    #[error(
        "the certificate is that of a CA and not one of the trusted ones itself: trust exactly \
         this certificate, pin its key, or issue the peer one that is not a CA"
    )]
    Ca,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

/// Roots and CRLs, ready to judge.
#[derive(Debug)]
pub(super) struct Judge {
    roots: Arc<[CertificateDer<'static>]>,
    crls: Arc<[CertificateRevocationListDer<'static>]>,
    stale: StaleCrls,
    now: ArcSwap<Verifiers>,
}

/// Those of the roots that are valid.
#[derive(Debug)]
struct Verifiers {
    client: Arc<dyn ClientCertVerifier>,
    server: Arc<dyn ServerCertVerifier>,
    /// They hold good in these seconds.
    from: i64,
    until: i64,
}

impl Judge {
    pub(super) fn new(
        roots: &Arc<[CertificateDer<'static>]>,
        crls: &Arc<[CertificateRevocationListDer<'static>]>,
        stale: StaleCrls,
    ) -> Result<Self, String> {
        let (roots, crls) = (Arc::clone(roots), Arc::clone(crls));
        let now = Verifiers::of(&roots, &crls, stale, seconds(UnixTime::now()))?;
        Ok(Self { roots, crls, stale, now: ArcSwap::from_pointee(now) })
    }

    /// The verifiers with the roots that are valid now.
    pub(super) fn client(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.now.load().client)
    }

    fn at(&self, now: UnixTime) -> Result<Arc<Verifiers>, Error> {
        let (now, made) = (seconds(now), self.now.load_full());
        if (made.from..=made.until).contains(&now) {
            return Ok(made);
        }
        let made = Verifiers::of(&self.roots, &self.crls, self.stale, now);
        let made = Arc::new(made.map_err(Error::General)?);
        self.now.store(Arc::clone(&made));
        Ok(made)
    }

    pub(super) fn verify_client(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        shown::note(leaf);
        if self.is_trusted_itself(leaf) {
            return self.itself(leaf, now, false).map(|()| ClientCertVerified::assertion());
        }
        self.refusable(leaf, intermediates)?;
        let judged = self.at(now)?.client.verify_client_cert(leaf, intermediates, now);
        judged.map_err(|e| self.named(e, leaf, intermediates, now))
    }

    pub(super) fn verify_server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        shown::note(leaf);
        if self.is_trusted_itself(leaf) {
            self.itself(leaf, now, true)?;
            let leaf = webpki::EndEntityCert::try_from(leaf);
            let named = leaf.and_then(|leaf| leaf.verify_is_valid_for_subject_name(name));
            let wrong = |_| Error::InvalidCertificate(CertificateError::NotValidForName);
            return named.map(|()| ServerCertVerified::assertion()).map_err(wrong);
        }
        self.refusable(leaf, intermediates)?;
        let judged = self.at(now)?.server.verify_server_cert(leaf, intermediates, name, &[], now);
        judged.map_err(|e| self.named(e, leaf, intermediates, now))
    }

    /// Whether it is a CA's certificate by its form, and exactly one of the trusted ones: what
    /// `openssl req -x509` makes. Any other that is trusted is its own chain anyway.
    fn is_trusted_itself(&self, leaf: &CertificateDer<'_>) -> bool {
        let listed = self.roots.iter().any(|root| root.as_ref() == leaf.as_ref());
        listed && X509Certificate::from_der(leaf).is_ok_and(|(_, leaf)| leaf.is_ca())
    }

    /// What a chain of one certificate must keep: its time, its use, and no CRL names it.
    fn itself(&self, leaf: &CertificateDer<'_>, now: UnixTime, server: bool) -> Result<(), Error> {
        let refused = |error| Err(Error::InvalidCertificate(error));
        let Ok((_, cert)) = X509Certificate::from_der(leaf) else {
            return refused(CertificateError::BadEncoding);
        };
        if seconds(now) > cert.validity().not_after.timestamp() {
            return refused(CertificateError::Expired);
        }
        if seconds(now) < cert.validity().not_before.timestamp() {
            return refused(CertificateError::NotValidYet);
        }
        let usage = cert.key_usage().map_err(|_| CertificateError::BadEncoding)?;
        let purposes = cert.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
        let purpose = purposes.is_none_or(|p| {
            let p = p.value;
            p.any || if server { p.server_auth } else { p.client_auth }
        });
        if !usage.is_none_or(|u| u.value.digital_signature()) || !purpose {
            return refused(CertificateError::InvalidPurpose);
        }
        for crl in &*self.crls {
            let Ok((_, crl)) = CertificateRevocationList::from_der(crl) else {
                return refused(CertificateError::UnknownRevocationStatus);
            };
            let mut named = crl.iter_revoked_certificates();
            if crl.issuer() == cert.issuer() && named.any(|r| r.raw_serial() == cert.raw_serial()) {
                return refused(CertificateError::Revoked);
            }
        }
        Ok(())
    }

    /// What rustls lets pass, or refuses in words that nobody understands.
    fn refusable(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let Ok((_, cert)) = X509Certificate::from_der(leaf) else { return Ok(()) };
        if cert.is_ca() {
            return Err(Refusal::Ca.into());
        }
        for der in signers(&cert, intermediates) {
            check_signer(der).map_err(|e| Refusal::Signer(e.to_string()))?;
        }
        Ok(())
    }

    /// The error, or the root that would have been the end of the chain in its time.
    fn named(
        &self,
        error: Error,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Error {
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let Ok((_, cert)) = X509Certificate::from_der(leaf) else { return error };
        if error != unknown {
            return error;
        }
        let above = signers(&cert, intermediates);
        let above = above.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1));
        let mut issuers: Vec<_> = above.map(|cert| cert.issuer().as_raw().to_vec()).collect();
        issuers.push(cert.issuer().as_raw().to_vec());
        for der in &*self.roots {
            let Ok((_, root)) = X509Certificate::from_der(der) else { continue };
            let (from, until) = (root.validity().not_before, root.validity().not_after);
            let valid = (from.timestamp()..=until.timestamp()).contains(&seconds(now));
            if !valid && issuers.iter().any(|issuer| issuer == root.subject().as_raw()) {
                let name = root.subject().to_string().chars().take(256).collect();
                return Refusal::Root(name, from.to_string(), until.to_string()).into();
            }
        }
        error
    }
}

/// The intermediates that the leaf can lead to by the names of issuers.
fn signers<'a, 'b>(
    leaf: &X509Certificate<'_>,
    intermediates: &'a [CertificateDer<'b>],
) -> Vec<&'a CertificateDer<'b>> {
    let parsed =
        intermediates.iter().filter_map(|der| Some((der, X509Certificate::from_der(der).ok()?.1)));
    let mut left: Vec<_> = parsed.collect();
    let (mut found, mut issuers) = (Vec::new(), vec![leaf.issuer().as_raw().to_vec()]);
    while let Some(issuer) = issuers.pop() {
        let mut kept = Vec::new();
        for (der, cert) in left {
            if cert.subject().as_raw() == issuer {
                issuers.push(cert.issuer().as_raw().to_vec());
                found.push(der);
            } else {
                kept.push((der, cert));
            }
        }
        left = kept;
    }
    found
}

impl Verifiers {
    fn of(
        roots: &[CertificateDer<'static>],
        crls: &[CertificateRevocationListDer<'static>],
        stale: StaleCrls,
        now: i64,
    ) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        let (mut from, mut until) = (i64::MIN, i64::MAX);
        for root in roots {
            // Of the system's some cannot be read; those of a file were read before.
            let Ok((_, cert)) = X509Certificate::from_der(root) else { continue };
            let validity = cert.validity();
            let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
            if now < begin {
                until = until.min(begin - 1);
            } else if now > end {
                from = from.max(end + 1);
            } else if store.add(root.clone()).is_ok() {
                (from, until) = (from.max(begin), until.min(end));
            }
        }
        if store.is_empty() {
            return Err("none of the trusted roots is valid now: they have expired".into());
        }
        let (store, provider) = (Arc::new(store), classic_provider());
        let client = WebPkiClientVerifier::builder_with_provider(store.clone(), provider.clone())
            .with_crls(crls.iter().cloned())
            .allow_unknown_revocation_status();
        let server = WebPkiServerVerifier::builder_with_provider(store, provider)
            .with_crls(crls.iter().cloned())
            .allow_unknown_revocation_status();
        let (client, server) = match stale {
            StaleCrls::Refuse => {
                (client.enforce_revocation_expiration(), server.enforce_revocation_expiration())
            }
            StaleCrls::Warn => (client, server),
        };
        let client = client.build().map_err(|e| e.to_string())?;
        let server: Arc<dyn ServerCertVerifier> = server.build().map_err(|e| e.to_string())?;
        Ok(Self { client, server, from, until })
    }
}

/// What of these ends within `ahead` or has ended, one text each: roots and CRLs that are soon
/// refused.
#[must_use]
pub fn ending(
    roots: &[CertificateDer<'_>],
    crls: &[CertificateRevocationListDer<'_>],
    now: UnixTime,
    ahead: Duration,
) -> Vec<String> {
    let now = seconds(now);
    let by = now.saturating_add(i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX));
    let roots = roots
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok())
        .map(|(_, c)| (format!("root {}", c.subject()), c.validity().not_after));
    let crls = crls.iter().filter_map(|der| CertificateRevocationList::from_der(der).ok());
    let crls = crls.filter_map(|(_, c)| Some((format!("CRL of {}", c.issuer()), c.next_update()?)));
    let soon = roots.chain(crls).filter(|(_, until)| until.timestamp() < by);
    soon.map(|(what, until)| match until.timestamp() < now {
        true => format!("{what} has expired: it was valid until {until}"),
        false => format!("{what} expires soon: it is valid until {until}"),
    })
    .collect()
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
