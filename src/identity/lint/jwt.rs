//! A JWT-SVID (JWT-SVID §2–§5): header, claims, and whether its signature proves it.

use serde_json::{Map, Value};

use super::{Given, Report, name, shown};
use crate::identity::{
    JwtError, JwtSvid, SpiffeId,
    jwt::{
        CLAIMS, HEADER, Header, Parts, audiences, authority, check_signature, check_time,
        claim_type_faults, decode, expires, object, subject,
    },
    until, validate_jwt_svid,
};

const KEY: &str = "signing key is in the bundle of its trust domain";
const SIGNATURE: &str = "signature";

/// Judges a token in the JWS Compact Serialization, with nothing before or after it.
#[must_use]
pub fn jwt_svid(token: &str, given: &Given<'_>) -> Report {
    let mut report = Report::new("JWT-SVID");
    let clause = "JWT-SVID §5.1, RFC 7515 §3.1";
    let parts = match Parts::split(token) {
        Ok(parts) => parts,
        Err(error) => {
            let advice = "send it as header.claims.signature, base64url without padding";
            report.fail("compact serialization", clause, error.to_string(), advice);
            return report;
        }
    };
    report.ok("compact serialization", clause, format!("{} bytes", token.len()));
    let header = part(&mut report, "header is strict JSON", parts.header, HEADER);
    let header = header.and_then(|header| header_rules(&mut report, &header));
    let claims = part(&mut report, "claims are strict JSON", parts.claims, CLAIMS);
    let svid = claims.and_then(|claims| claim_rules(&mut report, claims, given));
    report.subject = svid.as_ref().map(|svid| svid.id.to_string());
    if svid.is_none() {
        report.subject = claimed_id(token).map(|id| id.to_string());
    }
    proof(&mut report, &parts, header.as_ref(), svid.as_ref(), given);
    own_verdict(&mut report, token, svid.as_ref(), given);
    report
}

/// The ID that a token claims, unproven.
pub(super) fn claimed_id(token: &str) -> Option<SpiffeId> {
    let parts = Parts::split(token).ok()?;
    let claims: Map<String, Value> =
        serde_json::from_slice(&decode(parts.claims, CLAIMS).ok()?).ok()?;
    claims.get("sub")?.as_str()?.parse().ok()
}

/// One part as an object. Where members are doubled the last counts from here on, so that the
/// rest can be judged.
fn part(
    report: &mut Report,
    rule: &str,
    text: &str,
    part: &'static str,
) -> Option<Map<String, Value>> {
    let clause = "RFC 7515 §4, RFC 7519 §4";
    match object(text, part) {
        Ok(object) => {
            report.ok(rule, clause, crate::identity::counted(object.len(), "member"));
            Some(object)
        }
        Err(error) => {
            let advice = "encode one JSON object without doubled members";
            report.fail(rule, clause, error.to_string(), advice);
            serde_json::from_slice(&decode(text, part).ok()?).ok()
        }
    }
}

fn header_rules(report: &mut Report, header: &Map<String, Value>) -> Option<Header> {
    let (said, faults) = Header::of(header);
    type Is = fn(&JwtError) -> bool;
    let rules: [(&str, &'static str, Is, &str); 4] = [
        (
            "alg is one of the nine",
            "JWT-SVID §2.1",
            |e| matches!(e, JwtError::Algorithm(_)),
            "sign with RS, PS or ES and 256, 384 or 512",
        ),
        (
            "header has alg, kid and typ only",
            "JWT-SVID §2",
            |e| matches!(e, JwtError::HeaderMember(_)),
            "omit the member",
        ),
        (
            "typ is JWT or JOSE",
            "JWT-SVID §2.3",
            |e| matches!(e, JwtError::Type(_)),
            "write JWT or JOSE, or omit it",
        ),
        (
            "kid names the key",
            "JWT-SVID §2.2",
            |e| matches!(e, JwtError::NoKeyId),
            "set kid: the specification leaves it open, and go-spiffe, rust-spiffe, SPIRE and \
             adit refuse a token without it",
        ),
    ];
    for (rule, clause, is, advice) in rules {
        let member = match rule {
            "alg is one of the nine" => header.get("alg"),
            "typ is JWT or JOSE" => header.get("typ"),
            "kid names the key" => header.get("kid"),
            _ => None,
        };
        let broken: Vec<_> = faults.iter().filter(|fault| is(fault)).collect();
        if broken.is_empty() {
            report.ok(rule, clause, member.map_or_else(String::new, |m| shown(&m.to_string())));
        }
        broken.iter().for_each(|fault| report.fail(rule, clause, fault.to_string(), advice));
    }
    said
}

fn claim_rules(
    report: &mut Report,
    claims: Map<String, Value>,
    given: &Given<'_>,
) -> Option<JwtSvid> {
    let id = subject(&claims);
    let advice = "set sub to the SPIFFE ID of the workload";
    let found = id.as_ref().map(ToString::to_string);
    report.judge("sub is a SPIFFE ID", "JWT-SVID §3.1", found, advice);
    if let Some(Value::String(sub)) = claims.get("sub") {
        let _ = name::spiffe_id(report, sub, given, "JWT-SVID §3.1");
    }

    let aud = audiences(&claims);
    let found = aud.as_ref().map(|aud| shown(&aud.join(", ")));
    let advice = "set aud to its audience: a string or a list of strings, none empty";
    report.judge("aud is present", "JWT-SVID §3.2", found, advice);
    if let Ok(aud) = &aud {
        let found = match aud.len() {
            1 => Ok("one".to_owned()),
            n => Err(format!("{n}: each of them can present it to the others")),
        };
        report.expect("a single audience", "JWT-SVID §3.2, §7.2", found, "issue one for each");
        if let Some(expected) = given.audience {
            let is_for = aud.iter().any(|aud| aud == expected);
            let found = format!("it is for {}", shown(&aud.join(", ")));
            let found = if is_for { Ok(expected.to_owned()) } else { Err(found) };
            let advice = "ask for a token for this audience; case and spaces count";
            report.judge("it is for the expected audience", "JWT-SVID §3.2", found, advice);
        }
    }

    let exp = expires(&claims);
    let found = exp.as_ref().map(|_| shown(&claims["exp"].to_string()));
    let advice = "set exp to whole seconds since 1970";
    report.judge("exp is present", "JWT-SVID §3.3", found, advice);
    let wrong: Vec<_> = claim_type_faults(&claims).collect();
    let advice = "times are numbers, iss and jti are strings";
    if wrong.is_empty() {
        report.ok("types of registered claims", "RFC 7519 §4.1", "as they must be");
    }
    for fault in wrong {
        report.fail("types of registered claims", "RFC 7519 §4.1", fault.to_string(), advice);
    }

    let clause = "JWT-SVID §3.3, RFC 7519 §4.1.4, §4.1.5";
    let (Ok(id), Ok(expires)) = (id, exp) else {
        report.not_checked("validity", clause, "sub or exp cannot be read");
        return None;
    };
    let svid = JwtSvid { id, audiences: aud.unwrap_or_default(), expires, claims };
    let found = check_time(&svid, given.now).map(|()| until(svid.expires, given.now));
    report.judge("validity", clause, found, "fetch a new one, and check that the clocks agree");
    Some(svid)
}

/// `kid` to a key of the bundle, and that key to the signature.
fn proof(
    report: &mut Report,
    parts: &Parts<'_>,
    header: Option<&Header>,
    svid: Option<&JwtSvid>,
    given: &Given<'_>,
) {
    let signature = decode(parts.signature, "signature").map(|s| format!("{} bytes", s.len()));
    let advice = "encode it as base64url without padding";
    report.judge("signature encoding", "RFC 7515 §2", signature, advice);
    let not_checked = |report: &mut Report, why: &str| {
        report.not_checked(KEY, "JWT-SVID §6.2", why);
        report.not_checked(SIGNATURE, "JWT-SVID §4", why);
    };
    let Some(bundles) = given.bundles else {
        return not_checked(report, "no bundle was given (--bundle FILE)");
    };
    let Some((header, svid)) = header.zip(svid) else {
        return not_checked(report, "alg, kid, sub or exp cannot be read");
    };
    match authority(header, &svid.id, bundles) {
        Err(error) => {
            let advice = "keys of another trust domain cannot verify it; fetch the bundle again";
            report.fail(KEY, "JWT-SVID §6.2", error.to_string(), advice);
            report.not_checked(SIGNATURE, "JWT-SVID §4", "there is no key to check it with");
        }
        Ok(authority) => {
            report.ok(KEY, "JWT-SVID §6.2", shown(&authority.key_id));
            let found = check_signature(parts, header, authority).map(|()| "right".to_owned());
            let advice = "it was changed in transit, or signed with another key";
            report.judge(SIGNATURE, "JWT-SVID §4", found, advice);
        }
    }
}

fn own_verdict(report: &mut Report, token: &str, svid: Option<&JwtSvid>, given: &Given<'_>) {
    let (rule, clause) = ("adit's own verdict", "JWT-SVID §4");
    let Some(bundles) = given.bundles else {
        return report.not_checked(rule, clause, "no bundle was given (--bundle FILE)");
    };
    let first = svid.and_then(|svid| svid.audiences.first());
    let audience = given.audience.or(first.map(String::as_str)).unwrap_or_default();
    let verdict = validate_jwt_svid(token, audience, bundles, given.now);
    report.judge(rule, clause, verdict.map(|_| "accepted".to_owned()), "see the rules above");
}
