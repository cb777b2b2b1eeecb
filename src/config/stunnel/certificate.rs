//! What the import looks at in certificates that a stunnel.conf names.

use std::path::Path;

use pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::tls::Pin;

/// Reads the certificates of a file, or says what is wrong.
pub(super) type CertificatesOf<'a> = &'a dyn Fn(&Path) -> Result<Vec<Certificate>, String>;

/// One certificate of a file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Certificate {
    /// Its key, as pins name it.
    pub pin: String,
    /// Its subject, RFC 4514.
    pub subject: String,
    /// Until when it is valid.
    pub not_after: String,
    /// Whether that has passed, or has not begun.
    pub expired: bool,
    /// Whether it may sign others.
    pub authority: bool,
    /// Whether it has issued itself.
    pub self_signed: bool,
    /// Whether it has a DNS name or an address beside its subject.
    pub named: bool,
}

impl Certificate {
    /// Reads it; `None` if it cannot be read.
    #[must_use]
    pub fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, read) = X509Certificate::from_der(der).ok()?;
        let names = read.subject_alternative_name().ok().flatten();
        let of_host = |name: &GeneralName<'_>| {
            matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_))
        };
        Some(Self {
            pin: Pin::of(der)?.to_string(),
            subject: read.subject().to_string(),
            not_after: read.validity().not_after.to_string(),
            expired: !read.validity().is_valid(),
            authority: read.is_ca(),
            self_signed: read.subject() == read.issuer(),
            named: names.is_some_and(|names| names.value.general_names.iter().any(of_host)),
        })
    }
}
