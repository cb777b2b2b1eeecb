//! The JWT profile (Workload API §6): tokens, the keys for them, and the server's own judgement.

use std::time::SystemTime;

use tonic::{Code, Status};

use super::{
    Options,
    call::{FirstMessage, RIGHT, RawClient, refused, said},
    x509::{LOOKED_AT, SeenSvids, begun, first_of, prompt, take_over, unique_hints},
};
use crate::{
    credentials::workload_api::client::domain_of_key,
    identity::{
        BundleSet, JwtAuthority, SpiffeId, TrustBundle,
        lint::{Given, Report, jwt_svid},
    },
    rpc::workload::{
        JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
        ValidateJwtsvidRequest, ValidateJwtsvidResponse,
    },
};

const FETCH: &str = "Workload API §6.2.1";
const BUNDLES: &str = "Workload API §6.2.2";
const VALIDATE: &str = "Workload API §6.2.3";
const MANDATORY: &str = "Workload API §4.5, §6.2.1";

/// Returns a token that is good, if there is one.
pub(super) async fn check(
    report: &mut Report,
    wire: &RawClient,
    options: &Options,
    seen: Option<&SeenSvids>,
    now: SystemTime,
) -> Option<String> {
    let bundles = bundles(report, wire, seen).await;
    let id = seen.and_then(|seen| seen.id.as_ref());
    bad_requests(report, wire, options, id).await;
    let all = fetch(wire, vec![options.audience.clone()], String::new()).await;
    let svids = match all {
        Ok(answer) => answer.svids,
        Err(status) if status.code() == Code::PermissionDenied => {
            let why = format!("no identity for this process: {}", said(&status));
            report.not_checked("FetchJWTSVID", FETCH, why);
            return None;
        }
        Err(status) if status.code() == Code::Unimplemented => {
            let advice = "operators may turn the profile off; workloads that need it fail";
            report.warn("FetchJWTSVID", "Workload API §3", said(&status), advice);
            return None;
        }
        Err(status) => {
            let advice = "issue one for each identity of the caller";
            report.fail("FetchJWTSVID", FETCH, said(&status), advice);
            return None;
        }
    };
    tokens(report, &svids, options, bundles.as_ref(), now);
    if let Some(id) = id {
        let one = fetch(wire, vec![options.audience.clone()], id.to_string()).await;
        let found = match one {
            Ok(one)
                if !one.svids.is_empty()
                    && one.svids.iter().all(|s| s.spiffe_id == id.as_str()) =>
            {
                Ok(id.to_string())
            }
            Ok(one) => Err(format!(
                "{}, not all of {id}",
                crate::identity::counted(one.svids.len(), "token")
            )),
            Err(status) => Err(said(&status)),
        };
        let advice = "with spiffe_id set, answer with that identity only";
        report.judge("FetchJWTSVID for one identity", FETCH, found, advice);
    }
    let token = svids.into_iter().next().map(|svid| (svid.svid, svid.spiffe_id));
    let (token, id) = token.filter(|(token, _)| !token.is_empty())?;
    validation(report, wire, options, &token, &id).await;
    Some(token)
}

async fn fetch(
    wire: &RawClient,
    audience: Vec<String>,
    spiffe_id: String,
) -> Result<JwtsvidResponse, Status> {
    let request = JwtsvidRequest { audience, spiffe_id };
    wire.unary("/SpiffeWorkloadAPI/FetchJWTSVID", request, RIGHT).await
}

/// The keys by trust domain; what is wrong with them is told.
async fn bundles(
    report: &mut Report,
    wire: &RawClient,
    seen: Option<&SeenSvids>,
) -> Option<BundleSet> {
    let path = "/SpiffeWorkloadAPI/FetchJWTBundles";
    let first = wire.first::<_, JwtBundlesResponse>(path, JwtBundlesRequest {}, RIGHT).await;
    let FirstMessage { message, took, .. } = begun(report, "FetchJWTBundles", first)?;
    prompt(report, "FetchJWTBundles", took);
    let mut all = BundleSet::default();
    let mut faults = Vec::new();
    for (key, set) in &message.bundles {
        let of = |why: String| format!("{:?}: {why}", key.chars().take(100).collect::<String>());
        let read = domain_of_key(key).map_err(|e| e.to_string());
        match read.and_then(|td| Ok((td, JwtAuthority::from_jwks(set).map_err(|e| e.to_string())?)))
        {
            Ok((domain, authorities)) => {
                let mut bundle = TrustBundle::new(domain, Vec::new());
                bundle.jwt_authorities = authorities;
                all.insert(bundle);
            }
            Err(why) => faults.push(of(why)),
        }
        let document: serde_json::Value = serde_json::from_slice(set).unwrap_or_default();
        let keys = document["keys"].as_array().cloned().unwrap_or_default();
        let others = keys.iter().filter_map(|key| key["use"].as_str());
        let others: Vec<_> = others.filter(|u| !matches!(*u, "jwt-svid" | "sig")).collect();
        faults.extend(others.first().map(|other| of(format!("a key of use {other:?}"))));
    }
    faults.sort();
    faults.truncate(8);
    let count = crate::identity::counted(message.bundles.len(), "bundle");
    let found = if faults.is_empty() { Ok(count) } else { Err(faults.join("; ")) };
    let advice =
        "by spiffe://trust-domain, a JWK Set of the keys that sign JWT-SVIDs and no others";
    report.judge("FetchJWTBundles: keys and key sets are valid", BUNDLES, found, advice);
    if let Some(id) = seen.and_then(|seen| seen.id.as_ref()) {
        let own = all.get(id.trust_domain());
        let found = own.map(|own| crate::identity::counted(own.jwt_authorities.len(), "key"));
        let found = found.ok_or_else(|| format!("there is no bundle for {}", id.trust_domain()));
        let rule = "FetchJWTBundles includes the caller's own trust domain";
        report.judge(rule, BUNDLES, found, "it must always be there");
    }
    Some(all)
}

async fn bad_requests(
    report: &mut Report,
    wire: &RawClient,
    options: &Options,
    id: Option<&SpiffeId>,
) {
    let audience = || vec![options.audience.clone()];
    let mut cases = vec![
        ("without an audience", Vec::new(), String::new(), Code::InvalidArgument, MANDATORY),
        ("for a malformed spiffe_id", audience(), "spiffe://".into(), Code::InvalidArgument, FETCH),
    ];
    if let Some(id) = id {
        let nobody = format!("spiffe://{}/no/such/workload", id.trust_domain());
        let other = ("for a foreign spiffe_id", audience(), nobody);
        cases.push((other.0, other.1, other.2, Code::PermissionDenied, FETCH));
    }
    for (what, audience, spiffe_id, code, clause) in cases {
        let rule = format!("FetchJWTSVID {what}");
        let answer = fetch(wire, audience, spiffe_id).await;
        if matches!(&answer, Err(status) if status.code() == Code::Unimplemented) {
            report.not_checked(&rule, clause, "the profile is turned off");
        } else if id.is_none()
            && matches!(&answer, Err(status) if status.code() == Code::PermissionDenied)
        {
            report.not_checked(&rule, clause, "no identity for this process");
        } else {
            let advice = "return this code: with another one, clients retry in vain, or do not retry when \
                          they should";
            report.judge(&rule, clause, refused(answer, code), advice);
        }
    }
}

fn tokens(
    report: &mut Report,
    svids: &[Jwtsvid],
    options: &Options,
    bundles: Option<&BundleSet>,
    now: SystemTime,
) {
    let found = match svids.len() {
        0 => Err("it has none"),
        n => Ok(crate::identity::counted(n, "token")),
    };
    let advice = "answer PermissionDenied if there is nothing to give";
    report.judge("FetchJWTSVID: svids is not empty", FETCH, found, advice);
    let hints = svids.iter().map(|svid| &*svid.hint);
    unique_hints(report, "FetchJWTSVID: hints are unique", FETCH, hints);
    first_of(report, "FetchJWTSVID", FETCH, svids.len());
    for (n, svid) in svids.iter().take(LOOKED_AT).enumerate() {
        let rule = |what: &str| format!("token {n}: {what}");
        let full = !svid.spiffe_id.is_empty() && !svid.svid.is_empty();
        let found = if full { Ok("both".to_owned()) } else { Err("spiffe_id or svid is empty") };
        report.judge(&rule("mandatory fields"), MANDATORY, found, "fill them");
        let audience = Some(&*options.audience);
        let lint = jwt_svid(&svid.svid, &Given { bundles, audience, ..Given::at(now) });
        let same = lint.subject.as_ref() == Some(&svid.spiffe_id);
        let sub = lint.subject.clone().unwrap_or_default();
        let found = format!("spiffe_id is {:?}, sub {sub:?}", svid.spiffe_id);
        let found = if same { Ok(sub) } else { Err(found) };
        let name = rule("spiffe_id is the token's sub");
        report.judge(&name, FETCH, found, "set it to the token's SPIFFE ID");
        if !lint.failed() {
            let found = "verified with FetchJWTBundles";
            report.ok(&rule("it is a valid JWT-SVID"), "JWT-SVID §2–§5", found);
        }
        take_over(report, &rule(""), lint);
    }
}

async fn validation(
    report: &mut Report,
    wire: &RawClient,
    options: &Options,
    token: &str,
    id: &str,
) {
    let validate = async |audience: &str, svid: &str| {
        let request = ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() };
        let path = "/SpiffeWorkloadAPI/ValidateJWTSVID";
        wire.unary::<_, ValidateJwtsvidResponse>(path, request, RIGHT).await
    };
    let good = validate(&options.audience, token).await;
    let found = match good {
        Err(status) => Err(said(&status)),
        Ok(answer) if answer.spiffe_id != id => Err(format!("it is of {:?}", answer.spiffe_id)),
        Ok(answer) => {
            let claims = answer.claims.unwrap_or_default().fields;
            let missing: Vec<_> = ["sub", "aud", "exp"]
                .into_iter()
                .filter(|name| !claims.contains_key(*name))
                .collect();
            let missed = || Err(format!("claims lack {}", missing.join(", ")));
            if missing.is_empty() { Ok(id.to_owned()) } else { missed() }
        }
    };
    let advice = "accept what FetchJWTSVID gave, and return sub, aud and exp";
    report.judge("ValidateJWTSVID of a good token", VALIDATE, found, advice);
    // Another first character of the signature: the last may have bits that do not count.
    let tampered = token.rsplit_once('.').map_or_else(String::new, |(signed, signature)| {
        let other = if signature.starts_with('A') { 'B' } else { 'A' };
        format!("{signed}.{other}{}", signature.get(1..).unwrap_or_default())
    });
    let elsewhere = format!("{}-and-not-that", options.audience);
    for (what, audience, svid) in [
        ("a tampered token", &*options.audience, &*tampered),
        ("another audience", &elsewhere, token),
        ("garbage", &options.audience, "a.b.c"),
        ("no audience", "", token),
        ("no token", &options.audience, ""),
    ] {
        let found = refused(validate(audience, svid).await, Code::InvalidArgument);
        let advice = "callers trust the answer: refuse it with InvalidArgument";
        report.judge(&format!("ValidateJWTSVID of {what}"), VALIDATE, found, advice);
    }
}
