//! An X.509-SVID: the leaf's rules (X509-SVID §2–§4, RFC 5280 §4), then its chain and its trust
//! (X509-SVID §5).

use pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    Given, Report, authority::intermediate, first_id, name, public_key::public_key, shown,
    unix_time,
};
use crate::identity::{
    Purpose, SvidError, counted, parse_leaf,
    svid_error::MAX_CHAIN,
    until,
    verify::{check_path, check_signer, check_validity},
    verify_svid,
    x509::{KeyUsageRule, Leaf, constraint_faults, uris},
};

const PATH: &str = "X509-SVID §5.1, RFC 5280 §6.1";
const TRUSTED: &str = "chain leads to the bundle of its trust domain";

/// Judges a chain, leaf first.
#[must_use]
pub fn x509_svid(chain: &[CertificateDer<'_>], given: &Given<'_>) -> Report {
    let mut report = Report::new("X.509-SVID");
    let Some((leaf_der, above)) = chain.split_first() else {
        let advice = "give the certificate chain, leaf first";
        report.fail("certificate", "X509-SVID §3.1", "none", advice);
        return report;
    };
    let leaf = certificate(&mut report, leaf_der, given);
    report.subject = leaf.as_ref().map(|leaf| leaf.id.to_string());

    let size = format!("{} certificates, adit reads at most {MAX_CHAIN}", chain.len());
    let size = if chain.len() > MAX_CHAIN { Err(size) } else { Ok(size) };
    let advice = "omit certificates that do not lead from the leaf to the bundle";
    report.judge("chain length", "adit's own limit", size, advice);
    for (n, der) in above.iter().take(MAX_CHAIN).enumerate() {
        intermediate(&mut report, n + 1, der, given);
    }
    order(&mut report, chain);
    trust(&mut report, chain, leaf.as_ref(), given);
    own_verdict(&mut report, chain, given);
    report
}

/// The rules for the leaf; what it says, if it says who it is.
fn certificate(report: &mut Report, der: &CertificateDer<'_>, given: &Given<'_>) -> Option<Leaf> {
    let (rest, cert) = match X509Certificate::from_der(der) {
        Ok(parsed) => parsed,
        Err(error) => {
            let advice = "the leaf must be one X.509 certificate in DER (or PEM around it)";
            report.fail("leaf encoding", "RFC 5280 §4.1", error.to_string(), advice);
            return None;
        }
    };
    let whole = match rest.len() {
        0 => Ok(format!("{} of DER", counted(der.len(), "byte"))),
        n => Err(format!("{} after the certificate", counted(n, "byte"))),
    };
    report.judge("leaf encoding", "RFC 5280 §4.1", whole, "remove what follows it");
    form(report, &cert);
    let id = names(report, &cert, given);
    usages(report, &cert);
    let leaf = id.map(|id| Leaf::of(&cert, id));
    match &leaf {
        Some(leaf) => {
            let valid = check_validity(leaf, given.unix_time());
            let valid = valid.map(|()| until(leaf.not_after, given.now));
            let advice = "have a new one issued, and check that the clocks agree";
            report.judge("validity", "RFC 5280 §4.1.2.5", valid, advice);
        }
        None => {
            let now = i64::try_from(given.unix_time().as_secs()).unwrap_or(i64::MAX);
            let (from, until) = (cert.validity().not_before, cert.validity().not_after);
            let valid = (from.timestamp()..=until.timestamp()).contains(&now);
            let found = format!("from {from} until {until}");
            let result = if valid { Ok(found) } else { Err(found) };
            report.judge("validity", "RFC 5280 §4.1.2.5", result, "have a new one issued");
        }
    }
    leaf
}

/// What RFC 5280 wants of any certificate.
fn form(report: &mut Report, cert: &X509Certificate<'_>) {
    let version = cert.version();
    let result = if version.0 == 2 { Ok("v3".to_owned()) } else { Err(version.to_string()) };
    report.judge("certificate version", "RFC 5280 §4.1.2.1", result, "issue it as version 3");

    let serial = cert.raw_serial();
    let zero = serial.iter().all(|b| *b == 0);
    let found = match serial {
        _ if zero => Err("it is zero".to_owned()),
        [first, ..] if first & 0x80 != 0 => Err("it is negative".to_owned()),
        long if long.len() > 20 => Err(format!("{} bytes, at most 20 are allowed", long.len())),
        _ => Ok(cert.raw_serial_as_string()),
    };
    let advice = "use a random positive number of up to 20 bytes";
    report.expect("serial number", "RFC 5280 §4.1.2.2", found, advice);

    let rule = "extensions can be read";
    match uris(cert) {
        Ok(_) => report.ok(rule, "RFC 5280 §4.2", counted(cert.extensions().len(), "extension")),
        Err(error) => report.fail(rule, "RFC 5280 §4.2", error.to_string(), "encode it again"),
    }
    // Those that path building understands.
    let known = ["15", "17", "19", "30", "31", "37"].map(|last| format!("2.5.29.{last}"));
    let critical = cert.extensions().iter().filter(|e| e.critical).map(|e| e.oid.to_id_string());
    let unknown: Vec<_> = critical.filter(|oid| !known.contains(oid)).collect();
    let result = if unknown.is_empty() { Ok("none".into()) } else { Err(unknown.join(", ")) };
    let advice = "a peer that does not know a critical extension refuses the certificate";
    report.judge("unknown critical extensions", "RFC 5280 §4.2", result, advice);

    let issuer_key = cert.extensions().iter().any(|e| e.oid.to_id_string() == "2.5.29.35");
    let found = if issuer_key { Ok("present".into()) } else { Err("missing".into()) };
    let advice = "issuers should set it, so that the right authority is found after a rotation";
    report.expect("authority key identifier", "RFC 5280 §4.2.1.1", found, advice);

    public_key(report, "public key", cert, true);
}

fn names(
    report: &mut Report,
    cert: &X509Certificate<'_>,
    given: &Given<'_>,
) -> Option<crate::identity::SpiffeId> {
    let uris = uris(cert).unwrap_or_default();
    let listed = || uris.iter().take(4).map(|uri| shown(uri)).collect::<Vec<_>>().join(", ");
    let result = match uris.len() {
        0 => Err(SvidError::NoUriSan.to_string()),
        1 => Ok(listed()),
        n => Err(format!("{n} URI SANs: {}", listed())),
    };
    let advice = "issue it with one URI SAN, the SPIFFE ID; other kinds of SAN are allowed";
    report.judge("exactly one URI SAN", "X509-SVID §2", result, advice);

    let san = cert.subject_alternative_name().ok().flatten();
    let found = match (cert.subject().iter().next().is_some(), san.map(|san| san.critical)) {
        (true, _) => Ok("Subject is not empty".into()),
        (false, Some(true)) => Ok("critical".into()),
        (false, Some(false)) => Err("Subject is empty and the SAN not critical".into()),
        (false, None) => Err("there is neither Subject nor SAN".into()),
    };
    let advice = "mark the SAN critical, or set a Subject; most validators also accept it as it is";
    let rule = "SAN critical where Subject is empty";
    report.expect(rule, "X509-SVID §3.1, RFC 5280 §4.2.1.6", found, advice);

    for uri in uris.iter().take(2) {
        let _ = name::spiffe_id(report, uri, given, "X509-SVID §3.1, §5.2");
    }
    first_id(&uris)
}

fn usages(report: &mut Report, cert: &X509Certificate<'_>) {
    let faults = constraint_faults(cert, KeyUsageRule::Required);
    let (ca, usage): (Vec<_>, Vec<_>) =
        faults.into_iter().partition(|fault| *fault == SvidError::CaAsLeaf);
    let result = if ca.is_empty() { Ok("CA:FALSE") } else { Err("CA:TRUE") };
    let advice = "a CA certificate never authenticates a workload; to check a signing certificate \
                  use --authority";
    report.judge("leaf is not a CA", "X509-SVID §4.1, §5.2", result.map(Into::into), advice);

    const USAGE: &str = "key usage of a leaf";
    let advice = "set digitalSignature, and neither keyCertSign nor cRLSign";
    if usage.is_empty() {
        report.ok(USAGE, "X509-SVID §4.3", "digitalSignature, and no signing of certificates");
    }
    usage.iter().for_each(|fault| report.fail(USAGE, "X509-SVID §4.3", fault.to_string(), advice));
    if let Ok(Some(usage)) = cert.key_usage() {
        let found = if usage.critical { Ok("critical".into()) } else { Err("not critical".into()) };
        let advice = "mark key usage critical; adit and others also accept it as it is";
        report.expect("key usage is critical", "X509-SVID §4.3", found, advice);
    }

    const PURPOSES: &str = "extended key usage";
    let advice = "set both serverAuth and clientAuth";
    match cert.extended_key_usage() {
        Err(error) => report.fail(PURPOSES, "X509-SVID §4.4", error.to_string(), advice),
        Ok(None) => report.warn(PURPOSES, "X509-SVID §4.4", "none", advice),
        Ok(Some(purposes)) => {
            let (server, client) = (purposes.value.server_auth, purposes.value.client_auth);
            let found = match (server, client) {
                (true, true) => Ok("serverAuth and clientAuth".to_owned()),
                (true, false) => Err("no clientAuth: a client cannot use it"),
                (false, true) => Err("no serverAuth: a server cannot use it"),
                (false, false) => Err("neither serverAuth nor clientAuth"),
            };
            report.judge(PURPOSES, "X509-SVID §4.4", found, advice);
        }
    }
}

/// Each certificate is issued by the one after it.
fn order(report: &mut Report, chain: &[CertificateDer<'_>]) {
    if chain.len() < 2 {
        return;
    }
    let parsed = chain.iter().take(MAX_CHAIN).map(|der| X509Certificate::from_der(der));
    let Ok(parsed) = parsed.collect::<Result<Vec<_>, _>>() else { return };
    let broken = parsed.windows(2).position(|pair| pair[0].1.issuer() != pair[1].1.subject());
    let found = match broken {
        None => Ok("each is issued by the next".to_owned()),
        Some(n) => Err(format!("certificate {} is not issued by number {}", n + 1, n + 2)),
    };
    let advice = "send the leaf, then each issuer; not every implementation accepts another order";
    report.expect("order of the chain", "RFC 8446 §4.4.2", found, advice);
}

fn trust(
    report: &mut Report,
    chain: &[CertificateDer<'_>],
    leaf: Option<&Leaf>,
    given: &Given<'_>,
) {
    let Some(bundles) = given.bundles else {
        return report.not_checked(TRUSTED, PATH, "no bundle was given (--bundle FILE)");
    };
    let Some(leaf) = leaf else {
        return report.not_checked(TRUSTED, PATH, "without a SPIFFE ID there is no trust domain");
    };
    if chain.len() > MAX_CHAIN {
        return report.not_checked(TRUSTED, PATH, "the chain is too long");
    }
    // One that has run out is judged as of its last second: its trust is another question.
    let valid = check_validity(leaf, given.unix_time()).is_ok();
    let now = if valid { given.unix_time() } else { unix_time(leaf.not_after) };
    for (purpose, name) in [(Purpose::Server, "as a server"), (Purpose::Client, "as a client")] {
        let led = check_path(chain, leaf, bundles, now, purpose);
        let found = led.map(|()| format!("{}, {name}", leaf.id.trust_domain()));
        let advice = "send the intermediates, and check that the bundle belongs to this trust domain and is \
             current";
        report.judge(TRUSTED, PATH, found, advice);
    }
}

/// What adit itself would do with it.
fn own_verdict(report: &mut Report, chain: &[CertificateDer<'_>], given: &Given<'_>) {
    let now = given.unix_time();
    let verdict = match given.bundles {
        Some(bundles) => [Purpose::Server, Purpose::Client]
            .into_iter()
            .try_for_each(|purpose| verify_svid(chain, bundles, now, purpose).map(drop)),
        None => parse_leaf(&chain[0])
            .and_then(|leaf| check_validity(&leaf, now))
            .and_then(|()| chain[1..].iter().take(MAX_CHAIN).try_for_each(check_signer)),
    };
    let verdict = verdict.map(|()| "accepted".to_owned());
    report.judge("adit's own verdict", "X509-SVID §5", verdict, "see the rules above");
}
