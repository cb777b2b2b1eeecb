//! The public key of a certificate, be it a leaf or an authority (RFC 5280 §4.1.2.7).

use x509_parser::prelude::X509Certificate;

use super::Report;
use crate::identity::{KEYS, PublicKey};

/// Whether a key can sign, as a handshake would have it. In a bundle nobody insists.
pub(super) fn public_key(
    report: &mut Report,
    rule: &str,
    cert: &X509Certificate<'_>,
    insist: bool,
) {
    const CLAUSE: &str = "RFC 5280 §4.1.2.7";
    let advice = "EC P-256 is supported everywhere";
    match PublicKey::check_signs_tls(cert.public_key().raw) {
        Ok(found) if found == "Ed25519" => {
            report.warn(rule, CLAUSE, "Ed25519, which some TLS libraries lack", advice);
        }
        Ok(found) => report.ok(rule, CLAUSE, found),
        Err(found) if insist => report.fail(rule, CLAUSE, format!("{found}; {KEYS}"), advice),
        Err(found) => report.warn(rule, CLAUSE, format!("{found}; {KEYS}"), advice),
    }
}
