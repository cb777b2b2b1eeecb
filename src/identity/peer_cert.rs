//! What a peer's certificate says, for access rules, PROXY headers and logs.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::SystemTime,
};

use pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::{SpiffeId, parse_leaf, system_time};

/// The leaf of a chain that was verified.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PeerCert {
    /// The last common name of the subject, as Go's `pkix.Name` has it.
    pub cn: Option<String>,
    /// All organizational units of the subject.
    pub ous: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// The SPIFFE ID, if there is exactly one URI and that is one.
    pub id: Option<SpiffeId>,
    /// Why that ID proves nobody, if it does not: a rule for X.509-SVIDs that the leaf breaks. It
    /// can still be denied.
    pub id_fault: Option<String>,
    /// The rule for X.509-SVIDs that the leaf breaks, if one of its URIs has the scheme `spiffe`,
    /// whether or not that is a valid ID.
    pub spiffe_fault: Option<String>,
    /// The whole subject, RFC 4514.
    pub subject: String,
    /// The certificate.
    pub der: Vec<u8>,
    /// When it runs out.
    pub not_after: Option<SystemTime>,
}

impl PeerCert {
    /// Reads the leaf; `None` if there is none or it cannot be read.
    #[must_use]
    pub fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let leaf = chain.first()?;
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let subject = certificate.subject();
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            a.as_str().ok().map(ToOwned::to_owned)
        };
        let mut found = Self {
            cn: subject.iter_common_name().filter_map(text).last(),
            ous: subject.iter_organizational_unit().filter_map(text).collect(),
            subject: subject.to_string(),
            der: leaf.to_vec(),
            not_after: Some(system_time(certificate.validity().not_after)),
            ..Self::default()
        };
        let names = certificate.subject_alternative_name().ok().flatten();
        for name in names.iter().flat_map(|n| &n.value.general_names) {
            match name {
                GeneralName::DNSName(name) => found.dns.push((*name).to_owned()),
                GeneralName::URI(uri) => found.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => found.ips.extend(ip(bytes)),
                _ => {}
            }
        }
        if let [uri] = found.uris.as_slice() {
            found.id = uri.parse().ok();
        }
        if found.uris.iter().any(|uri| is_spiffe(uri)) {
            found.spiffe_fault = parse_leaf(leaf).err().map(|e| e.to_string());
        }
        found.id_fault = found.spiffe_fault.clone().filter(|_| found.id.is_some());
        Some(found)
    }

    /// Every SPIFFE ID that it shows, also where several names prove none: who is denied by one of
    /// them is denied.
    pub fn shown_ids(&self) -> impl Iterator<Item = SpiffeId> {
        self.uris.iter().filter_map(|uri| uri.parse().ok())
    }

    /// The URIs that say who it is: those of SPIFFE do so in an X.509-SVID only.
    pub fn proven_uris(&self) -> impl Iterator<Item = &str> {
        let proves = |uri: &&String| self.spiffe_fault.is_none() || !is_spiffe(uri);
        self.uris.iter().filter(proves).map(String::as_str)
    }

    /// The subject for a record, where there is no SPIFFE ID to name the peer: at most 256
    /// characters of it.
    #[must_use]
    pub fn shown_subject(&self) -> Option<Arc<String>> {
        let shown = || Arc::new(self.subject.chars().take(256).collect());
        (self.id.is_none() && !self.subject.is_empty()).then(shown)
    }

    /// How a log calls it: the SPIFFE ID, else the subject.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.id {
            Some(id) => id.to_string(),
            None if !self.subject.is_empty() => self.subject.clone(),
            None => self.uris.first().or(self.dns.first()).cloned().unwrap_or_default(),
        }
    }
}

fn is_spiffe(uri: &str) -> bool {
    uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
        _ => None,
    }
}
