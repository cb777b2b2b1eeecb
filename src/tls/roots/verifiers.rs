//! rustls' verifiers by the roots that are valid at a time.

use std::{fmt, sync::Arc};

use pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::{
    RootCertStore,
    client::{VerifierBuilderError, WebPkiServerVerifier, danger::ServerCertVerifier},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::super::provider::classic_provider;
use crate::identity::{check_root, crl_words};

/// What a CRL past its nextUpdate means.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StaleCrls {
    /// Whoever its issuer certified is refused: somebody may be revoked without it saying so.
    #[default]
    Refuse,
    /// It is still used, with a warning.
    Warn,
}

impl fmt::Display for StaleCrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::Warn => "warn",
        })
    }
}

/// Those of the roots that are valid.
#[derive(Debug)]
pub(super) struct Verifiers {
    /// By those that certify others; `None` if each is trusted for itself alone.
    pub(super) below: Option<Below>,
    /// They hold good in these seconds.
    pub(super) from: i64,
    pub(super) until: i64,
}

#[derive(Debug)]
pub(super) struct Below {
    pub(super) client: Arc<dyn ClientCertVerifier>,
    pub(super) server: Arc<dyn ServerCertVerifier>,
}

impl Verifiers {
    pub(super) fn of(
        roots: &[CertificateDer<'static>],
        crls: &[CertificateRevocationListDer<'static>],
        stale: StaleCrls,
        now: i64,
    ) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        let (mut from, mut until) = (i64::MIN, i64::MAX);
        let (mut ended, mut early, mut alone) = (0, 0, 0);
        for root in roots {
            // Of the system's some cannot be read; those of a file were read before.
            let Ok((_, cert)) = X509Certificate::from_der(root) else { continue };
            let validity = cert.validity();
            let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
            if now < begin {
                until = until.min(begin - 1);
                early += 1;
            } else if now > end {
                from = from.max(end + 1);
                ended += 1;
            } else if check_root(root).is_err() {
                (from, until) = (from.max(begin), until.min(end));
                alone += 1;
            } else if store.add(root.clone()).is_ok() {
                (from, until) = (from.max(begin), until.min(end));
            }
        }
        if store.is_empty() && alone == 0 {
            let why = match (ended, early) {
                (0, 0) => "they cannot be read",
                (_, 0) => "they have expired",
                (0, _) => "by this machine's clock they are not valid yet",
                _ => "some have expired, and by this machine's clock the others are not valid yet",
            };
            return Err(format!("none of the trusted roots is valid now: {why}"));
        }
        if store.is_empty() {
            return Ok(Self { below: None, from, until });
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
        let client = client.build().map_err(|e| builder_words(&e))?;
        let server: Arc<dyn ServerCertVerifier> = server.build().map_err(|e| builder_words(&e))?;
        Ok(Self { below: Some(Below { client, server }), from, until })
    }
}

fn builder_words(error: &VerifierBuilderError) -> String {
    match error {
        VerifierBuilderError::InvalidCrl(crl) => crl_words(crl),
        other => other.to_string(),
    }
}

pub(in crate::tls) fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
