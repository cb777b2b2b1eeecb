//! A bundle document (SPIFFE Trust Domain and Bundle §4, X509-SVID §6, JWT-SVID §6).

use serde_json::{Map, Value};

use super::{Given, Report, authority::signer, shown};
use crate::identity::{
    DocumentError, TrustBundle, TrustDomain,
    bundle_document::{JWT_USE, X509_USE, integer, keys, object},
};

const KEYS: &str = "keys is an array";
const KEYS_CLAUSE: &str = "SPIFFE Trust Domain and Bundle §4.1.3";
const USE_CLAUSE: &str = "SPIFFE Trust Domain and Bundle §4.2.2";

/// Judges a bundle document in JSON.
#[must_use]
pub fn bundle_document(document: &[u8], given: &Given<'_>) -> Report {
    let mut report = Report::new("SPIFFE bundle");
    report.subject = given.trust_domain.map(ToString::to_string);
    let members = match object(document) {
        Ok(members) => {
            report.ok("strict JSON", "SPIFFE Trust Domain and Bundle §4.1, §6.3", "one object");
            members
        }
        Err(error) => {
            let advice = "publish one JSON object without doubled members";
            let clause = "SPIFFE Trust Domain and Bundle §4.1, §6.3";
            report.fail("strict JSON", clause, error.to_string(), advice);
            match (error, serde_json::from_slice(document)) {
                (DocumentError::DuplicateMember(_), Ok(members)) => members,
                _ => return report,
            }
        }
    };
    number(&mut report, &members, "spiffe_sequence", "SPIFFE Trust Domain and Bundle §4.1.1");
    number(&mut report, &members, "spiffe_refresh_hint", "SPIFFE Trust Domain and Bundle §4.1.2");
    let domain = given.trust_domain.cloned().unwrap_or_else(unnamed);
    let mut bundle = TrustBundle::new(domain.clone(), Vec::new());
    match keys(&members) {
        Ok(keys) => {
            report.ok(KEYS, KEYS_CLAUSE, crate::identity::counted(keys.len(), "entry"));
            for (n, key) in keys.iter().enumerate() {
                entry(&mut report, &mut bundle, n, key, given);
            }
            let (x509, jwt) = (bundle.authorities.len(), bundle.jwt_authorities.len());
            let found = format!("{x509} for X.509-SVIDs, {jwt} for JWT-SVIDs");
            let found = if x509 + jwt == 0 { Err(found) } else { Ok(found) };
            let advice = "with none, every SVID of the trust domain is refused";
            report.expect("there are authorities", KEYS_CLAUSE, found, advice);
        }
        Err(error) => {
            let advice = "publish an array, empty to revoke everything";
            report.fail(KEYS, KEYS_CLAUSE, error.to_string(), advice);
        }
    }
    let verdict = TrustBundle::from_document(domain, document).map(|_| "accepted".to_owned());
    let clause = "SPIFFE Trust Domain and Bundle §4";
    report.judge("adit's own verdict", clause, verdict, "see the rules above");
    report
}

/// A document does not say whose it is.
fn unnamed() -> TrustDomain {
    "unnamed".parse().expect("a literal trust domain")
}

fn number(
    report: &mut Report,
    members: &Map<String, Value>,
    name: &'static str,
    clause: &'static str,
) {
    match integer(members, name) {
        Ok(Some(number)) => report.ok(name, clause, number.to_string()),
        Ok(None) => report.warn(name, clause, "missing", "set it: it SHOULD be there"),
        Err(error) => report.fail(name, clause, error.to_string(), "write a whole number"),
    }
}

fn entry(
    report: &mut Report,
    bundle: &mut TrustBundle,
    n: usize,
    entry: &Value,
    given: &Given<'_>,
) {
    let rule = |what: &str| format!("key {n}: {what}");
    let member = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    let usage = member("use");
    let found = match usage {
        X509_USE | JWT_USE => Ok(usage.to_owned()),
        "" => Err("missing, so validators ignore this key".to_owned()),
        other => Err(format!("{:?} is unknown, so this key is ignored", shown(other))),
    };
    let advice = "x509-svid and jwt-svid are the uses that validators know";
    report.expect(&rule("use"), USE_CLAUSE, found, advice);

    let before = (bundle.authorities.len(), bundle.jwt_authorities.len());
    let added = bundle.add(entry);
    let clause = if usage == JWT_USE { "JWT-SVID §6.1" } else { "X509-SVID §6.1" };
    if let Err(error) = added {
        let advice = "one bad entry of a known use invalidates the document";
        return report.fail(&rule("can be used"), clause, error.to_string(), advice);
    }
    let is_new = before != (bundle.authorities.len(), bundle.jwt_authorities.len());
    if matches!(usage, X509_USE | JWT_USE) {
        let found = if is_new {
            Ok(format!("{} {}", shown(member("kty")), shown(member("crv"))))
        } else {
            Err("it adds nothing: an unknown type, no x5c, or a duplicate".to_owned())
        };
        let advice = "use kty EC or RSA; an X.509 authority has its certificate in x5c";
        report.expect(&rule("can be used"), clause, found, advice);
    }
    if usage != X509_USE {
        return;
    }
    let found = match entry.get("kid") {
        None => Ok("none".to_owned()),
        Some(kid) => Err(format!("it is {}", shown(&kid.to_string()))),
    };
    let advice = "omit it for x509-svid";
    report.expect(&rule("no kid"), "X509-SVID §6.1", found, advice);
    let certificates = entry.get("x5c").and_then(Value::as_array).map_or(0, Vec::len);
    let found = crate::identity::counted(certificates, "certificate");
    let found = if certificates == 1 { Ok(found) } else { Err(found) };
    let advice = "one entry per authority: consumers take the first and ignore the rest";
    report.expect(&rule("exactly one certificate"), "X509-SVID §6.1, §6.2", found, advice);
    if let Some(der) = bundle.authorities.last().filter(|_| is_new) {
        signer(report, &format!("key {n}"), der, given, false);
    }
}
