//! Signing certificates (X509-SVID §3.2, §4): in a chain, in a bundle, or by themselves.

use pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Given, Report, public_key::public_key, shown};
use crate::identity::{PublicKey, SpiffeId, constraints, verify::check_signer, x509::uris};

/// Judges an authority of a trust domain by itself.
#[must_use]
pub fn authority(der: &CertificateDer<'_>, given: &Given<'_>) -> Report {
    let mut report = Report::new("X.509 authority");
    signer(&mut report, "authority", der, given, true);
    let anchor =
        webpki::anchor_from_trusted_cert(der).map(|_| "it can be a trust anchor".to_owned());
    let advice = "it must be one X.509 certificate with a subject and a key";
    report.judge("authority: trust anchor", "RFC 5280 §6.1.1", anchor, advice);
    report
}

/// An intermediate of a chain, number `n` from the leaf up.
pub(super) fn intermediate(
    report: &mut Report,
    n: usize,
    der: &CertificateDer<'_>,
    given: &Given<'_>,
) {
    let label = format!("intermediate {n}");
    signer(report, &label, der, given, true);
    if let Ok((_, cert)) = X509Certificate::from_der(der)
        && cert.subject() == cert.issuer()
    {
        let advice = "omit the root: a peer that trusts it already has it";
        let rule = format!("{label}: no root in the chain");
        report.warn(&rule, "RFC 8446 §4.4.2", "it is issued by itself", advice);
    }
}

/// The rules for a signing certificate. In a bundle nobody insists on them: `insist` is false.
pub(super) fn signer(
    report: &mut Report,
    label: &str,
    der: &CertificateDer<'_>,
    given: &Given<'_>,
    insist: bool,
) {
    let rule = |what: &str| format!("{label}: {what}");
    let encoding = rule("encoding");
    let (rest, cert) = match X509Certificate::from_der(der) {
        Ok(parsed) => parsed,
        Err(error) => {
            let advice = "it must be one X.509 certificate";
            return report.fail(&encoding, "RFC 5280 §4.1", error.to_string(), advice);
        }
    };
    let whole = match rest.len() {
        0 => Ok(shown(&cert.subject().to_string())),
        n => Err(format!("{} after the certificate", crate::identity::counted(n, "byte"))),
    };
    report.expect(&encoding, "RFC 5280 §4.1", whole, "remove what follows it");

    may_certify(report, label, der, &cert, insist);
    public_key(report, &rule("public key"), &cert, insist);
    critical_extensions(report, label, &cert);
    spiffe_id(report, label, &cert);
    validity(report, label, &cert, given);
    key_identifier(report, label, &cert);
    name_constraints(report, label, &cert);
}

/// Whether a certificate says that it may certify others.
fn may_certify(
    report: &mut Report,
    label: &str,
    der: &CertificateDer<'_>,
    cert: &X509Certificate<'_>,
    insist: bool,
) {
    let rule = |what: &str| format!("{label}: {what}");
    let constraints = cert.basic_constraints().ok().flatten();
    let usage = cert.key_usage().ok().flatten();
    let is_ca = constraints.as_ref().is_some_and(|c| c.value.ca);
    let signs = usage.as_ref().is_some_and(|u| u.value.key_cert_sign());
    let length = constraints.as_ref().and_then(|c| c.value.path_len_constraint);
    let length = length.map_or("no path length".to_owned(), |n| format!("path length {n}"));
    let musts = [
        ("it is a CA", "X509-SVID §3.2, §4.1", is_ca, "set cA in basic constraints", length),
        ("keyCertSign", "X509-SVID §3.2, §4.3", signs, "set keyCertSign", "set".to_owned()),
    ];
    // What says that it certifies nobody is nobody's root.
    let said = [constraints.is_some(), usage.is_some()];
    for ((what, clause, kept, advice, found), said) in musts.into_iter().zip(said) {
        match (kept, insist || said) {
            (true, _) => report.ok(&rule(what), clause, found),
            (false, true) => report.fail(&rule(what), clause, "not set", advice),
            (false, false) => report.warn(&rule(what), clause, "not set", advice),
        }
    }
    let key = PublicKey::check_signs_tls(cert.public_key().raw);
    if insist && is_ca && signs && key.is_ok() && check_signer(der).is_err() {
        report.fail(
            &rule("readable"),
            "RFC 5280 §4.2",
            "an extension is broken",
            "encode it again",
        );
    }
}

/// Whether the extensions that limit an authority are critical.
fn critical_extensions(report: &mut Report, label: &str, cert: &X509Certificate<'_>) {
    let critical = |critical: Option<bool>| match critical {
        Some(true) => Ok("critical".to_owned()),
        Some(false) => Err("not critical".to_owned()),
        None => Err("none".to_owned()),
    };
    let found = critical(cert.key_usage().ok().flatten().map(|u| u.critical));
    let advice = "mark it critical; most validators also accept it as it is";
    let name = format!("{label}: key usage is critical");
    report.expect(&name, "X509-SVID §4.3", found, advice);
    let found = critical(cert.basic_constraints().ok().flatten().map(|c| c.critical));
    let name = format!("{label}: basic constraints are critical");
    report.expect(&name, "RFC 5280 §4.2.1.9", found, advice);
}

/// The SPIFFE ID of an authority is that of its trust domain, or there is none.
fn spiffe_id(report: &mut Report, label: &str, cert: &X509Certificate<'_>) {
    let names = uris(cert).unwrap_or_default();
    let ids = names.iter().map(|uri| uri.parse::<SpiffeId>());
    let found = match ids.collect::<Vec<_>>().as_slice() {
        [] => Ok("none, which is allowed".to_owned()),
        [Ok(id)] if id.path().is_empty() => Ok(id.to_string()),
        [Ok(id)] => Err(format!("{id} has a path")),
        [Err(error)] => Err(error.to_string()),
        many => Err(format!("{} URI SANs", many.len())),
    };
    let advice = "name the trust domain itself, or nothing; validators accept it as it is";
    let name = format!("{label}: SPIFFE ID without a path");
    report.expect(&name, "X509-SVID §3.2", found, advice);
}

fn validity(report: &mut Report, label: &str, cert: &X509Certificate<'_>, given: &Given<'_>) {
    let now = i64::try_from(given.unix_time().as_secs()).unwrap_or(i64::MAX);
    let (from, until) = (cert.validity().not_before, cert.validity().not_after);
    let valid = (from.timestamp()..=until.timestamp()).contains(&now);
    let found = format!("from {from} until {until}");
    let found = if valid { Ok(found) } else { Err(found) };
    let advice =
        "publish its successor before it expires; whether a chain still verifies is checked below";
    report.expect(&format!("{label}: validity"), "RFC 5280 §4.1.2.5", found, advice);
}

fn key_identifier(report: &mut Report, label: &str, cert: &X509Certificate<'_>) {
    let key_id = cert.extensions().iter().any(|e| e.oid.to_id_string() == "2.5.29.14");
    let found = if key_id { Ok("present".into()) } else { Err("missing".into()) };
    let advice = "authorities need it, so that leaf certificates can refer to it";
    let name = format!("{label}: subject key identifier");
    report.expect(&name, "RFC 5280 §4.2.1.2", found, advice);
}

fn name_constraints(report: &mut Report, label: &str, cert: &X509Certificate<'_>) {
    let name = format!("{label}: name constraints");
    if constraints::on_uris(cert) {
        let advice = "adit, like others that do not evaluate them, refuses every SVID below it: issue it \
             without name constraints";
        let found = "present, on URIs";
        report.fail(&name, "RFC 5280 §4.2.1.10", found, advice);
    } else if cert.name_constraints().ok().flatten().is_some() {
        let advice = "not every implementation supports name constraints: test with all peers";
        report.warn(&name, "X509-SVID §4.2", "present", advice);
    }
}
