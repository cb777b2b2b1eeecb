//! Where credentials come from, as configured.

use std::{path::PathBuf, time::Duration};

use crate::{
    credentials::{Credential, acme::AcmeConfig, workload_api::Endpoint},
    tls::{Pin, StaleCrls},
};

/// Where a service's certificate, key and roots come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CredentialsConfig {
    /// Files.
    Files {
        /// Certificate and key; none shows nothing to peers (a client only).
        credential: Option<CredentialSource>,
        /// The password of a keystore, where it is not in a file.
        password: Option<Password>,
        /// The roots, PEM; none are the system's.
        roots: Option<PathBuf>,
        /// CRLs, PEM or DER.
        crls: Vec<PathBuf>,
        /// What a CRL past its nextUpdate means.
        stale: StaleCrls,
        /// Keys that are trusted instead of roots.
        pins: Vec<Pin>,
    },
    /// The SPIFFE Workload API: the default SVID and all bundles.
    WorkloadApi {
        /// Its socket.
        endpoint: Endpoint,
        /// How long the first SVID is waited for; `None` for ever.
        within: Option<Duration>,
        /// Whether our SVID is shown.
        shown: bool,
    },
}

impl CredentialsConfig {
    /// The files that are read.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let CredentialsConfig::Files { credential, roots, crls, .. } = self else {
            return Vec::new();
        };
        let mut paths: Vec<PathBuf> = roots.iter().chain(crls).cloned().collect();
        match credential {
            Some(CredentialSource::Files(files)) => paths.extend(files.paths()),
            Some(CredentialSource::Acme(acme)) => paths.push(acme.file()),
            Some(CredentialSource::Token { certificate, token }) => {
                paths.push(certificate.clone());
                paths.extend(token.pin_file.clone());
            }
            None => {}
        }
        paths
    }

    /// Whether the key is on a PKCS#11 token.
    #[must_use]
    pub fn on_token(&self) -> bool {
        matches!(self, Self::Files { credential: Some(CredentialSource::Token { .. }), .. })
    }

    /// What is ordered from an ACME CA, if anything is.
    #[must_use]
    pub fn acme(&self) -> Option<&AcmeConfig> {
        match self {
            Self::Files { credential: Some(CredentialSource::Acme(acme)), .. } => Some(acme),
            _ => None,
        }
    }
}

/// Certificate and key, and where they are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CredentialSource {
    /// Both in files.
    Files(Credential),
    /// Both from an ACME CA, kept in a file.
    Acme(AcmeConfig),
    /// The certificate in a file, its key on a PKCS#11 token.
    Token {
        /// The chain, leaf first, PEM.
        certificate: PathBuf,
        /// Where the key is.
        token: Token,
    },
}

/// A PKCS#11 token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token {
    /// The shared library that speaks with it.
    pub module: PathBuf,
    /// Its label; `None` if the module has one token only.
    pub label: Option<String>,
    /// The user's PIN, where it is not in a file.
    pub pin: Option<Password>,
    /// A file whose first line is the PIN.
    pub pin_file: Option<PathBuf>,
}

/// A password that is never shown.
#[derive(Clone, Eq, PartialEq)]
pub struct Password(pub zeroize::Zeroizing<String>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(redacted)")
    }
}
