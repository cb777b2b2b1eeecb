//! What is ordered from an ACME CA.

use std::{path::PathBuf, time::Duration};

use pki_types::DnsName;

use crate::credentials::Credential;

/// What is ordered, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcmeConfig {
    /// The name that is certified.
    pub name: String,
    /// Contact e-mail for the CA.
    pub email: Option<String>,
    /// The CA's directory, a URL.
    pub directory: String,
    /// Where accounts and certificates are kept.
    pub storage: PathBuf,
    /// How often it is looked whether the certificate is due.
    pub check_every: Duration,
    /// Challenges come to this port, where the service's own gets none.
    pub challenge_port: Option<u16>,
}

impl AcmeConfig {
    /// Whether it can be ordered.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        let name = self.name.as_str();
        if DnsName::try_from(name).is_err() || !name.contains('.') || name.contains('/') {
            return Err(format!(
                "{name:?} is not a name that a CA can certify, such as db.example.org"
            ));
        }
        if !self.directory.starts_with("https://") {
            return Err(format!("the CA's directory {:?} must be an https:// URL", self.directory));
        }
        Ok(())
    }

    /// The port of the CA.
    #[must_use]
    pub fn port(&self) -> u16 {
        let url = self.directory.parse::<http::Uri>().ok();
        url.and_then(|url| url.port_u16()).unwrap_or(443)
    }

    /// The file with certificate and key.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder().join(format!("{}.pem", self.name))
    }

    /// Certificate and key, both in that file.
    pub(in crate::credentials) fn credential(&self) -> Credential {
        Credential::Pem { certificate: self.file(), private_key: self.file() }
    }

    /// The folder of this CA: its account, and the certificates that it gave.
    pub(super) fn folder(&self) -> PathBuf {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let ca = self.directory.trim_start_matches("https://");
        let ca: String = ca.chars().map(plain).collect();
        self.storage.join(ca)
    }
}
