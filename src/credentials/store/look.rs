//! What is wrong with roots, CRLs and certificates that can be read: said before callers are refused for it.

use std::{path::Path, time::SystemTime};

use pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate, X509Version};

use super::config::{CredentialSource, CredentialsConfig};
use crate::{
    credentials::roots::trusted,
    identity::{
        Revocations, TrustBundle,
        key_files::{self, at, certificates},
    },
    tls::{Expiries, StaleCrls},
};

/// The most of a kind that is listed.
const LISTED: usize = 8;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What refuses peers that should be admitted, or admits whom it should not.
    pub faults: Vec<String>,
    /// What is probably not meant.
    pub warnings: Vec<String>,
}

/// Looks for roots, CRLs and own certificates in files that expire soon. Files that cannot be read are
/// left out: the caller that opened them has reported the error.
#[must_use]
pub fn look(config: &CredentialsConfig, now: SystemTime) -> Findings {
    let mut told = Findings::default();
    let CredentialsConfig::Files { credential, roots, crls, stale, pins, .. } = config else {
        return told;
    };
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(since);
    let own = own_chain(credential.as_ref());
    told.warnings.extend(Expiries::default().and_leaf(&own).soon(now));
    let Ok(authorities) = trusted(roots.as_ref()) else { return told };
    if !pins.is_empty() {
        return told;
    }
    if let Some(path) = roots {
        told.roots(path, &authorities);
    }
    let mut known = authorities.clone();
    known.extend(own.into_iter().skip(1));
    let mut current = Vec::new();
    for path in crls {
        for crl in key_files::crls(path).unwrap_or_default() {
            if told.crl(path, &crl, &known, *stale, now) {
                current.push(crl);
            }
        }
    }
    // The system's list is its distributor's to keep.
    let watched = if roots.is_some() { &authorities[..] } else { &[] };
    told.warnings.extend(Expiries::of(watched, &current).soon(now));
    told
}

fn own_chain(shown: Option<&CredentialSource>) -> Vec<CertificateDer<'static>> {
    let chain = match shown {
        Some(CredentialSource::Files(files)) => files.chain(),
        Some(CredentialSource::Token { certificate, .. }) => certificates(certificate),
        Some(CredentialSource::Acme(_)) | None => return Vec::new(),
    };
    chain.unwrap_or_default()
}

impl Findings {
    fn roots(&mut self, path: &Path, all: &[CertificateDer<'_>]) {
        let parsed = all.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1));
        // Those of version 1 cannot say what they are.
        let is_leaf =
            |root: &X509Certificate<'_>| root.version() == X509Version::V3 && !root.is_ca();
        let leaves: Vec<_> = parsed.filter(is_leaf).collect();
        let alone = |leaf: &X509Certificate<'_>| leaf.subject() == leaf.issuer();
        let name = |leaf: &X509Certificate<'_>| {
            leaf.subject().to_string().chars().take(100).collect::<String>()
        };
        if leaves.len() == all.len() && !leaves.iter().any(alone) {
            let names: Vec<_> = leaves.iter().take(LISTED).map(name).collect();
            self.faults.push(at(
                path,
                format!(
                    "contains no CA certificate, so it cannot verify any peer: {} {} by another \
                     issuer",
                    names.join(", "),
                    if all.len() == 1 {
                        "is a leaf certificate, signed"
                    } else {
                        "are leaf certificates, signed"
                    }
                ),
            ));
            return;
        }
        for leaf in leaves.iter().take(LISTED) {
            let why = match alone(leaf) {
                true => "is not a CA: only a peer with exactly this certificate is accepted",
                false => "is a leaf certificate, not a CA: remove it",
            };
            self.warnings.push(at(path, format!("{} {why}", name(leaf))));
        }
    }

    /// Whether it is in its time.
    fn crl(
        &mut self,
        path: &Path,
        der: &CertificateRevocationListDer<'static>,
        known: &[CertificateDer<'static>],
        stale: StaleCrls,
        now: UnixTime,
    ) -> bool {
        let Ok((_, crl)) = CertificateRevocationList::from_der(der) else { return false };
        let issuer: String = crl.issuer().to_string().chars().take(256).collect();
        let named = known.iter().any(|der| {
            let parsed = X509Certificate::from_der(der);
            parsed.is_ok_and(|(_, cert)| cert.subject().as_raw() == crl.issuer().as_raw())
        });
        if !named {
            self.warnings.push(at(
                path,
                format!(
                    "the CRL of {issuer} is not from a known root or intermediate: it revokes \
                     nothing, unless peers send an intermediate of that name"
                ),
            ));
        } else if let Ok(domain) = "crl".parse() {
            let mut bundle = TrustBundle::new(domain, known.to_vec());
            bundle.crls = vec![der.clone()];
            if !Revocations::of(&bundle).faults().is_empty() {
                let why = "is not signed with the key of the authority of that name";
                self.faults.push(at(path, format!("the CRL of {issuer} {why}")));
            }
        }
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let Some(next) = crl.next_update().filter(|next| next.timestamp() < now) else {
            return true;
        };
        let until = format!("the CRL of {issuer} is out of date: its nextUpdate was {next}");
        match stale {
            StaleCrls::Refuse => self.faults.push(at(
                path,
                format!(
                    "{until}; adit refuses every peer with a certificate from that issuer until \
                     there is a newer CRL, or `crl: {{ stale: warn }}` (--crl-stale warn) is set"
                ),
            )),
            StaleCrls::Warn => self.warnings.push(at(path, until)),
        }
        false
    }
}
