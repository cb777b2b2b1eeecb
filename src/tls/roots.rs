//! Chains to roots from files or of the system (RFC 5280 §6), judged as strictly as X.509-SVIDs
//! are: a root counts only within its validity and if it may certify others, and an intermediate
//! has cA and keyCertSign.

mod verifiers;

use std::sync::Arc;

use arc_swap::ArcSwap;
use pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DistinguishedName, Error, OtherError, client::danger::ServerCertVerified,
    server::danger::ClientCertVerified,
};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList,
    time::ASN1Time,
};

pub use self::verifiers::StaleCrls;
pub(super) use self::verifiers::seconds;

use self::verifiers::Verifiers;
use super::shown;
use crate::{
    identity::{KEYS, PublicKey, barred, check_root, check_signer, explain_constraints, moment_of},
    net::CloseReason,
};

/// Why a chain to a root is refused, beyond what rustls finds.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum ChainRefusal {
    #[error("the root {0} that the certificate leads to is not valid now (from {1} until {2})")]
    Root(String, String, String),
    #[error("the root {0} that the certificate leads to cannot be used: {1}")]
    Bars(String, String),
    #[error("the certificate's key is {0}; {KEYS}")]
    Key(String),
    #[error("the certificate's {0} does not allow this use: {1}")]
    Usage(&'static str, &'static str),
    #[error("the intermediate {0}, above the peer's certificate, {1}, and it is {2}")]
    Time(String, String, String),
    #[error("{0}")]
    Signer(String),
    #[error(
        "the certificate is a CA certificate, and not itself one of the trusted ones: trust \
         exactly this certificate, pin its key, or issue the peer one that is not a CA"
    )]
    Ca,
}

impl ChainRefusal {
    /// What operators see.
    pub(super) fn close_reason(&self) -> CloseReason {
        match self {
            Self::Root(..) | Self::Bars(..) | Self::Signer(_) => CloseReason::UntrustedSvid,
            Self::Key(_) | Self::Usage(..) => CloseReason::InvalidSvid,
            Self::Time(..) => CloseReason::SvidExpired,
            Self::Ca => CloseReason::CaAsLeaf,
        }
    }
}

impl From<ChainRefusal> for Error {
    fn from(refusal: ChainRefusal) -> Self {
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

    /// The names of the roots that are valid now, for clients to choose by.
    pub(super) fn hints(&self) -> Vec<DistinguishedName> {
        let now = self.now.load();
        now.below.as_ref().map_or(Vec::new(), |b| b.client.root_hint_subjects().to_vec())
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
        let verifiers = self.at(now)?;
        let judged = match &verifiers.below {
            Some(below) => below.client.verify_client_cert(leaf, intermediates, now),
            None => Err(unknown_issuer()),
        };
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
        let verifiers = self.at(now)?;
        let judged = match &verifiers.below {
            Some(below) => below.server.verify_server_cert(leaf, intermediates, name, &[], now),
            None => Err(unknown_issuer()),
        };
        judged.map_err(|e| self.named(e, leaf, intermediates, now))
    }

    /// Whether it is exactly one of the trusted ones, and a CA's certificate by its form, as
    /// `openssl req -x509` makes it, or one that certifies nobody else. Any other that is trusted
    /// is its own chain anyway.
    fn is_trusted_itself(&self, leaf: &CertificateDer<'_>) -> bool {
        let listed = self.roots.iter().any(|root| root.as_ref() == leaf.as_ref());
        let is_ca = || X509Certificate::from_der(leaf).is_ok_and(|(_, leaf)| leaf.is_ca());
        listed && (is_ca() || check_root(leaf).is_err())
    }

    /// What a chain of one certificate must keep: its time, its use, and no CRL names it.
    fn itself(&self, leaf: &CertificateDer<'_>, now: UnixTime, server: bool) -> Result<(), Error> {
        let refused = |error| Err(Error::InvalidCertificate(error));
        let Ok((_, cert)) = X509Certificate::from_der(leaf) else {
            return refused(CertificateError::BadEncoding);
        };
        check_key(&cert)?;
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
        if !usage.is_none_or(|u| u.value.digital_signature()) {
            return Err(ChainRefusal::Usage("key usage", "it lacks digitalSignature").into());
        }
        if !purpose {
            let wants =
                if server { "a server needs serverAuth" } else { "a client needs clientAuth" };
            return Err(ChainRefusal::Usage("extended key usage", wants).into());
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
            return Err(ChainRefusal::Ca.into());
        }
        check_key(&cert)?;
        // A peer may send its root along: that is trusted as it is.
        let is_root = |der: &CertificateDer<'_>| self.roots.iter().any(|root| root == der);
        for der in signers(&cert, intermediates).into_iter().filter(|der| !is_root(der)) {
            check_signer(der).map_err(|e| ChainRefusal::Signer(e.to_string()))?;
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
        let Ok((_, cert)) = X509Certificate::from_der(leaf) else { return error };
        let chain = || -> Vec<_> { std::iter::once(leaf).chain(intermediates).cloned().collect() };
        if is_of_time(&error) && covers(&cert, now) {
            return out_of_time(&signers(&cert, intermediates), now).unwrap_or(error);
        }
        if breaks_constraints(&error) {
            let chain = chain();
            let why = explain_constraints(&chain, &*self.roots);
            return why.map_or(error, |why| ChainRefusal::Signer(why).into());
        }
        if error != unknown_issuer() {
            return error;
        }
        if let Some((name, why)) = barred(&chain(), &self.roots) {
            return ChainRefusal::Bars(name, why).into();
        }
        let above = signers(&cert, intermediates);
        let above = above.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1));
        let mut issuers: Vec<_> = above.map(|cert| cert.issuer().as_raw().to_vec()).collect();
        issuers.push(cert.issuer().as_raw().to_vec());
        for der in &*self.roots {
            let Ok((_, root)) = X509Certificate::from_der(der) else { continue };
            let (from, until) = (root.validity().not_before, root.validity().not_after);
            if !covers(&root, now) && issuers.iter().any(|issuer| issuer == root.subject().as_raw())
            {
                let name = root.subject().to_string().chars().take(256).collect();
                return ChainRefusal::Root(name, from.to_string(), until.to_string()).into();
            }
        }
        error
    }
}

fn unknown_issuer() -> Error {
    Error::InvalidCertificate(CertificateError::UnknownIssuer)
}

/// Checks the key of a leaf of which nothing else is checked.
pub(super) fn check_leaf_key(leaf: &CertificateDer<'_>) -> Result<(), Error> {
    X509Certificate::from_der(leaf).map_or(Ok(()), |(_, leaf)| check_key(&leaf))
}

/// A key that proves nothing is named as such; by its signature it would only be a bad one.
fn check_key(leaf: &X509Certificate<'_>) -> Result<(), Error> {
    let checked = PublicKey::check_signs_tls(leaf.public_key().raw);
    checked.map(drop).map_err(|key| ChainRefusal::Key(key).into())
}

fn is_of_time(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    )
}

fn covers(cert: &X509Certificate<'_>, now: UnixTime) -> bool {
    let (from, until) = (cert.validity().not_before, cert.validity().not_after);
    (from.timestamp()..=until.timestamp()).contains(&seconds(now))
}

/// Which of those above the peer's certificate is not valid now.
fn out_of_time(above: &[&CertificateDer<'_>], now: UnixTime) -> Option<Error> {
    above.iter().find_map(|der| {
        let (_, cert) = X509Certificate::from_der(der).ok().filter(|(_, c)| !covers(c, now))?;
        let (from, until) = (cert.validity().not_before, cert.validity().not_after);
        let at = |time: ASN1Time| {
            let since = u64::try_from(time.timestamp()).unwrap_or(0);
            moment_of(UnixTime::since_unix_epoch(std::time::Duration::from_secs(since)))
        };
        let when = match until.timestamp() < seconds(now) {
            true => format!("expired at {}", at(until)),
            false => format!("is not valid before {}", at(from)),
        };
        let name = cert.subject().to_string().chars().take(256).collect();
        Some(ChainRefusal::Time(name, when, moment_of(now)).into())
    })
}

fn breaks_constraints(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else {
        return false;
    };
    cause.downcast_ref::<webpki::Error>() == Some(&webpki::Error::NameConstraintViolation)
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

#[cfg(test)]
mod tests;
