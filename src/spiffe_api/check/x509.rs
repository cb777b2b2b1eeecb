//! The X.509 profile (Workload API §5): what this process gets, whether it is right, and whether
//! the stream stays quiet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use tonic::{Code, Status, Streaming};

use super::call::{FirstMessage, RIGHT, RawClient, said};
use crate::{
    credentials::workload_api::client::{certificates, domain_of_key, key_matches},
    identity::{
        BundleSet, PrivateKey, SpiffeId, TrustBundle,
        lint::{Given, Report, Verdict, x509_svid},
        parse_leaf,
    },
    rpc::workload::{
        X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
    },
};

const SVIDS: &str = "Workload API §5.2.1";
const BUNDLES: &str = "Workload API §5.2.2";
const FIRST: &str = "Workload API §4.3";
const MANDATORY: &str = "Workload API §4.5, §5.2.1";
/// A first message that takes longer is slow.
const SOON: Duration = Duration::from_secs(1);
/// The longest hint, bytes (Workload API §8).
const HINT: usize = 1024;
const MOST_AUTHORITIES: usize = 1000;
/// As many SVIDs of one answer are judged.
pub(super) const LOOKED_AT: usize = 100;

/// What this process got.
pub(super) struct SeenSvids {
    pub(super) id: Option<SpiffeId>,
    message: X509svidResponse,
    stream: Streaming<X509svidResponse>,
}

pub(super) async fn check(
    report: &mut Report,
    wire: &RawClient,
    now: SystemTime,
) -> Option<SeenSvids> {
    let path = "/SpiffeWorkloadAPI/FetchX509SVID";
    let first = wire.first(path, X509svidRequest {}, RIGHT).await;
    let FirstMessage { message, took, stream } = begun(report, "FetchX509SVID", first)?;
    prompt(report, "FetchX509SVID", took);
    svids(report, &message, now);
    let ids = message.svids.iter().filter_map(|svid| svid.spiffe_id.parse().ok());
    let hints = message.svids.iter().map(|svid| &*svid.hint);
    unique_hints(report, "FetchX509SVID: hints are unique", SVIDS, hints);
    bundle_keys(report, "federated_bundles", "Workload API §4.6, §5.1", &message.federated_bundles);
    crls(report, &message.crl);
    let id: Option<SpiffeId> = ids.into_iter().next();
    let path = "/SpiffeWorkloadAPI/FetchX509Bundles";
    let first = wire.first::<_, X509BundlesResponse>(path, X509BundlesRequest {}, RIGHT).await;
    if let Some(FirstMessage { message: all, took, .. }) = begun(report, "FetchX509Bundles", first)
    {
        prompt(report, "FetchX509Bundles", took);
        bundle_keys(report, "bundles", BUNDLES, &all.bundles);
        same_bundles(report, &message, &all);
    }
    Some(SeenSvids { id, message, stream })
}

/// Whether a stream began; if not, why, and what that means.
pub(super) fn begun<A>(
    report: &mut Report,
    rpc: &str,
    first: Result<FirstMessage<A>, Status>,
) -> Option<FirstMessage<A>> {
    let rule = format!("{rpc} begins");
    match first {
        Ok(first) => {
            report.ok(&rule, FIRST, "a first message came");
            return Some(first);
        }
        Err(status) => match status.code() {
            Code::PermissionDenied => {
                let (process, uid) = (std::process::id(), nix::unistd::getuid());
                let why = format!(
                    "no identity for this process: pid {process}, uid {uid}: {}. Register this \
                     process, or run the check as one that is registered",
                    said(&status)
                );
                report.not_checked(&rule, "Workload Endpoint §6", why);
            }
            Code::Unimplemented => {
                let advice = "operators may turn a profile off; workloads that need it fail";
                report.warn(&rule, "Workload API §3, Workload Endpoint §6", said(&status), advice);
            }
            Code::Unavailable => {
                let advice = "the server is starting or sheds load: try again in a while";
                report.fail(&rule, "Workload Endpoint §6", said(&status), advice);
            }
            _ => {
                let advice = "send the first message as soon as the request comes in";
                report.fail(&rule, FIRST, said(&status), advice);
            }
        },
    }
    None
}

/// Whether the first message came without delay.
pub(super) fn prompt(report: &mut Report, rpc: &str, took: Duration) {
    let rule = format!("{rpc}: the first message comes at once");
    let found = format!("in {} ms", took.as_millis());
    if took <= SOON {
        return report.ok(&rule, FIRST, found);
    }
    report.warn(&rule, FIRST, found, "workloads start late: answer from memory, not from the CA");
}

fn svids(report: &mut Report, message: &X509svidResponse, now: SystemTime) {
    let count = message.svids.len();
    let found =
        if count == 0 { Err("it has none") } else { Ok(crate::identity::counted(count, "SVID")) };
    let advice = "answer PermissionDenied if there is nothing to give";
    report.judge("FetchX509SVID: svids is not empty", SVIDS, found, advice);
    first_of(report, "FetchX509SVID", SVIDS, count);
    for (n, svid) in message.svids.iter().take(LOOKED_AT).enumerate() {
        let rule = |what: &str| format!("svid {n}: {what}");
        let fields = [
            ("spiffe_id", svid.spiffe_id.is_empty()),
            ("x509_svid", svid.x509_svid.is_empty()),
            ("x509_svid_key", svid.x509_svid_key.is_empty()),
            ("bundle", svid.bundle.is_empty()),
        ];
        let empty: Vec<_> = fields.iter().filter(|(_, empty)| *empty).map(|(f, _)| *f).collect();
        let found = if empty.is_empty() { Ok("all four".into()) } else { Err(empty.join(", ")) };
        let advice = "fill it: clients discard the whole message";
        report.judge(&rule("mandatory fields"), MANDATORY, found, advice);
        let length = svid.hint.len();
        let found =
            if length > HINT { Err(length) } else { Ok(crate::identity::counted(length, "byte")) };
        let rule = rule("hint has at most 1024 bytes");
        report.judge(&rule, "Workload API §8", found, "use a short hint");
        if empty.is_empty() {
            one(report, n, svid, now);
        }
    }
}

/// Says so if not all of an answer are judged.
pub(super) fn first_of(report: &mut Report, rpc: &str, clause: &'static str, count: usize) {
    if count > LOOKED_AT {
        let why = format!("only the first {LOOKED_AT} of {count} are checked");
        report.not_checked(&format!("{rpc}: all SVIDs are checked"), clause, why);
    }
}

/// One SVID by itself: the linter's rules, its name, its key, its bundle.
fn one(report: &mut Report, n: usize, svid: &X509svid, now: SystemTime) {
    let rule = |what: &str| format!("svid {n}: {what}");
    let authorities = certificates(&svid.bundle, MOST_AUTHORITIES);
    let found = authorities.as_ref().map(|all| crate::identity::counted(all.len(), "authority"));
    let advice = "concatenate DER certificates";
    report.judge(&rule("bundle is DER"), "Workload API §5.1", found, advice);
    let chain = certificates(&svid.x509_svid, 100);
    let found = chain.as_ref().map(|all| crate::identity::counted(all.len(), "certificate"));
    report.judge(&rule("x509_svid is DER"), "Workload API §5.1", found, advice);
    let Ok(chain) = chain else { return };

    let id = svid.spiffe_id.parse::<SpiffeId>();
    let found = match (&id, parse_leaf(&chain[0])) {
        (Err(error), _) => Err(error.to_string()),
        (Ok(id), Ok(leaf)) if leaf.id == *id => Ok(id.to_string()),
        (Ok(id), Ok(leaf)) => Err(format!("spiffe_id is {id}, the certificate of {}", leaf.id)),
        (Ok(id), Err(error)) => Err(format!("spiffe_id is {id}, and {error}")),
    };
    let advice = "set it to the SPIFFE ID of the certificate";
    report.judge(&rule("spiffe_id names the certificate"), "Workload API §5.1", found, advice);
    let key = PrivateKey::from_pkcs8(svid.x509_svid_key.clone());
    let found = key_matches(&chain[0], &key);
    let found = if found { Ok("it does".to_owned()) } else { Err("it does not") };
    let advice = "send the leaf's own key as unencrypted PKCS#8 in DER";
    report.judge(&rule("key belongs to the certificate"), "Workload API §5.1", found, advice);

    let own = id.ok().zip(authorities.ok());
    let own = own.map(|(id, all)| TrustBundle::new(id.trust_domain().clone(), all));
    let bundles = own.map(|bundle| BundleSet::from_iter([bundle]));
    let lint = x509_svid(&chain, &Given { bundles: bundles.as_ref(), ..Given::at(now) });
    let kept = lint.count(Verdict::Ok);
    if !lint.failed() {
        let found = format!(
            "{} kept, {}",
            crate::identity::counted(kept, "rule"),
            crate::identity::counted(lint.count(Verdict::Warn), "warning")
        );
        report.ok(&rule("it is a valid X.509-SVID"), "X509-SVID §2–§5", found);
    }
    take_over(report, &rule(""), lint);
}

/// What the linter found wrong becomes part of this report.
pub(super) fn take_over(report: &mut Report, prefix: &str, lint: Report) {
    for mut finding in lint.findings {
        if matches!(finding.verdict, Verdict::Fail | Verdict::Warn) {
            finding.rule = format!("{prefix}{}", finding.rule);
            report.findings.push(finding);
        }
    }
}

/// Whether no two of the hints that are set are equal.
pub(super) fn unique_hints<'a>(
    report: &mut Report,
    rule: &str,
    clause: &'static str,
    hints: impl Iterator<Item = &'a str>,
) {
    let mut known = BTreeSet::new();
    let twice: Vec<_> = hints.filter(|hint| !hint.is_empty() && !known.insert(*hint)).collect();
    let found = match twice.first() {
        None => Ok(crate::identity::counted(known.len(), "hint")),
        Some(hint) => {
            Err(format!("{:?} is listed twice", hint.chars().take(64).collect::<String>()))
        }
    };
    let advice = "clients take the first of two with one hint: leave the others out";
    report.judge(rule, clause, found, advice);
}

fn bundle_keys(
    report: &mut Report,
    field: &str,
    clause: &'static str,
    bundles: &std::collections::HashMap<String, Vec<u8>>,
) {
    let sorted: BTreeMap<_, _> = bundles.iter().collect();
    let bad = sorted.iter().find_map(|(key, der)| {
        let of = |why: String| format!("{:?}: {why}", key.chars().take(100).collect::<String>());
        let named = domain_of_key(key).map_err(|e| e.to_string());
        let read = named.and_then(|_| certificates(der, MOST_AUTHORITIES));
        read.err().map(of)
    });
    let advice = "use spiffe://trust-domain as the key, and DER certificates as the value";
    let rule = format!("{field}: keys are trust domains, values are DER");
    report.judge(
        &rule,
        clause,
        bad.map_or(Ok(crate::identity::counted(sorted.len(), "bundle")), Err),
        advice,
    );
}

fn crls(report: &mut Report, crls: &[Vec<u8>]) {
    use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};
    let bad = crls.iter().filter(
        |crl| !matches!(CertificateRevocationList::from_der(crl), Ok((rest, _)) if rest.is_empty()),
    );
    let found = match bad.count() {
        0 => Ok(format!("{} CRLs", crls.len())),
        n => Err(format!("{n} of {} cannot be read", crls.len())),
    };
    report.judge("crl is DER", "Workload API §5.1, RFC 5280 §5", found, "send CRLs in DER");
}

/// What both streams say of a trust domain is the same.
fn same_bundles(report: &mut Report, svids: &X509svidResponse, all: &X509BundlesResponse) {
    let set = |der: &[u8]| {
        let all = certificates(der, MOST_AUTHORITIES).unwrap_or_default();
        all.iter().map(|der| der.to_vec()).collect::<BTreeSet<_>>()
    };
    let own = svids.svids.iter().filter_map(|svid| {
        let id: SpiffeId = svid.spiffe_id.parse().ok()?;
        Some((format!("spiffe://{}", id.trust_domain()), &svid.bundle))
    });
    let federated = svids.federated_bundles.iter().map(|(key, der)| (key.clone(), der));
    let mut said = own.chain(federated);
    let odd = said.find_map(|(key, der)| match all.bundles.get(&key) {
        None => Some(format!("FetchX509Bundles has no {key}")),
        Some(other) if set(other) != set(der) => Some(format!("{key} has other content there")),
        Some(_) => None,
    });
    let advice = "both streams must show the same state; if an authority was just rotated, run the check \
         again";
    let rule = "bundles of FetchX509SVID and FetchX509Bundles agree";
    report.judge(rule, BUNDLES, odd.map_or(Ok("they do".to_owned()), Err), advice);
}

/// Whether the stream stays open, and says nothing where nothing is new.
pub(super) async fn watch(report: &mut Report, seen: Option<SeenSvids>, time: Duration) {
    let (rule, clause) =
        ("FetchX509SVID: the stream stays open and quiet", "Workload API §4.2, §4.3");
    let Some(mut seen) = seen else {
        return report.not_checked(rule, clause, "there is no stream");
    };
    match tokio::time::timeout(time, seen.stream.message()).await {
        Err(_) => report.ok(rule, clause, format!("nothing for {time:?}")),
        Ok(Ok(Some(again))) if again == seen.message => {
            let advice = "send on changes only: clients reload with each message";
            report.warn(rule, clause, "the same message came again", advice);
        }
        Ok(Ok(Some(_))) => report.ok(rule, clause, "an update came"),
        Ok(Ok(None)) => report.warn(rule, clause, "the server ended it", "keep streams open"),
        Ok(Err(status)) => report.warn(rule, clause, said(&status), "keep streams open"),
    }
}
