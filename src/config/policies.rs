//! Istio `AuthorizationPolicy` documents, L4 fields. A field of HTTP is a fault that says
//! what adit does instead: reading it as absent would widen what it protects.

use std::sync::Arc;

use super::reader::{Item, Map};
use crate::policy::{
    Action, Clause, FieldMatch, Match, Place, Policy, Rule, Scope, ServiceAccountMatch,
    StringMatch, canonical_block,
};

/// Policies of this namespace without a selector are about the whole mesh.
const ROOT_NAMESPACE: &str = "istio-system";

const SOURCE: &[&str] = &[
    "principals",
    "notPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "ipBlocks",
    "notIpBlocks",
    "requestPrincipals",
    "notRequestPrincipals",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
];
const METADATA: &[&str] = &[
    "name",
    "namespace",
    "annotations",
    "labels",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "generateName",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];
const OPERATION: &[&str] =
    &["ports", "notPorts", "hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"];

fn refuse_l7(map: &Map<'_>, l7: &[&str]) {
    for key in l7 {
        if let Some(item) = map.get(key) {
            item.fault(
                "is about HTTP (L7), and adit does not parse the bytes of connections (L4): use \
                 principals, namespaces, serviceAccounts, ipBlocks and ports here, and put \
                 this rule on a waypoint or gateway",
            );
        }
    }
}

/// Reads one document of the `policies` list of `file`, or all that a `List` of `kubectl get` has.
pub(super) fn read_all(item: &Item<'_>, file: &Arc<str>) -> Vec<Policy> {
    if !["List", "AuthorizationPolicyList"].into_iter().any(|kind| item.says("kind", kind)) {
        return read(item, file).into_iter().collect();
    }
    let list = item.map(&["apiVersion", "kind", "metadata", "items"]);
    list.list("items").iter().filter_map(|item| read(item, file)).collect()
}

fn read(item: &Item<'_>, file: &Arc<str>) -> Option<Policy> {
    if let Some(kind) = item.find("kind").filter(|_| item.says("kind", "PeerAuthentication")) {
        kind.fault(
            "only AuthorizationPolicy is read; in place of a PeerAuthentication write `mtls: strict` \
             or `mtls: permissive` at the top of a mesh file, which is for all its workloads (`adit \
             server` and `adit proxy` ask each client for its certificate)",
        );
        return None;
    }
    // What the API server adds (status, managedFields and the like) says nothing of who may.
    let top = item.map(&["apiVersion", "kind", "metadata", "spec", "status"]);
    if let Some(kind) = top.get("kind") {
        kind.word(&[("AuthorizationPolicy", ())]);
    }
    if let Some(version) = top.get("apiVersion") {
        version.word(&[("security.istio.io/v1", ()), ("security.istio.io/v1beta1", ())]);
    }
    let metadata = top.require("metadata").map(|metadata| metadata.map(METADATA));
    let name = metadata.as_ref().and_then(|m| m.require("name")?.text());
    let of_metadata = |key| metadata.as_ref().and_then(|m| m.get(key));
    let namespace = of_metadata("namespace").map_or(Some("default".to_owned()), |n| n.text());
    let annotations = of_metadata("annotations").map(|a| a.texts()).unwrap_or_default();
    let dry_run = annotations.iter().any(|(k, v)| k == "istio.io/dry-run" && v == "true");
    let spec = top.require("spec")?.map(&[
        "selector",
        "action",
        "rules",
        "targetRef",
        "targetRefs",
        "provider",
    ]);
    for key in ["targetRef", "targetRefs", "provider"] {
        if let Some(item) = spec.get(key) {
            item.fault(
                "is only for waypoints and extension providers; select workloads with \
                 selector.matchLabels",
            );
        }
    }
    let actions = [("ALLOW", Action::Allow), ("DENY", Action::Deny)];
    let action = spec.get("action").map_or(Some(Action::Allow), |a| a.word(&actions));
    // All is read, and told if it is wrong, before what is missing ends it.
    let of = namespace.as_deref().unwrap_or_default();
    let scope = match spec.get("selector") {
        Some(selector) => {
            let labels = selector.map(&["matchLabels"]).require("matchLabels");
            let labels = labels.map(|labels| labels.texts().into_iter().collect());
            labels.map(|labels| Scope::Selector { labels, everywhere: of == ROOT_NAMESPACE })
        }
        None if of == ROOT_NAMESPACE => Some(Scope::Global),
        None => Some(Scope::Namespace),
    };
    let rule = |item: &Item<'_>| {
        let place = Place { file: Arc::clone(file), line: item.at("").line };
        Rule { place: Some(place), ..rule(item, of) }
    };
    let rules = spec.list("rules").iter().map(rule).collect();
    let (name, namespace, scope, action) = (name?, namespace?, scope?, action?);
    Some(Policy { name, namespace, scope, action, dry_run, rules })
}

fn rule(item: &Item<'_>, namespace: &str) -> Rule {
    let map = item.map(&["from", "to", "when"]);
    for key in ["from", "to", "when"] {
        refuse_empty(&map, key);
    }
    let from = map.list("from").iter().filter_map(|f| source(f, namespace)).collect();
    let to = map.list("to").iter().filter_map(operation).collect();
    let any_of = [from, to].into_iter().map(|matches| Clause { matches });
    let mut clauses: Vec<_> = any_of.filter(|clause| !clause.matches.is_empty()).collect();
    let when = map.list("when");
    clauses.extend(when.iter().filter_map(|w| condition(w, namespace)).map(Clause::from));
    Rule { clauses, place: None }
}

fn source(item: &Item<'_>, namespace: &str) -> Option<Match> {
    let source = item.map(&["source"]).require("source")?;
    let map = source.map(SOURCE);
    refuse_l7(&map, &SOURCE[8..]);
    let read = Match {
        principals: field(&map, "principals", "notPrincipals", principal),
        namespaces: field(&map, "namespaces", "notNamespaces", text),
        service_accounts: field(&map, "serviceAccounts", "notServiceAccounts", |i| {
            account(i, namespace)
        }),
        source_ips: field(&map, "ipBlocks", "notIpBlocks", block),
        ..Match::default()
    };
    if map.is_empty() {
        source.fault("an empty source matches no caller; omit `from` to match every caller");
    }
    Some(read)
}

fn operation(item: &Item<'_>) -> Option<Match> {
    let operation = item.map(&["operation"]).require("operation")?;
    let map = operation.map(OPERATION);
    refuse_l7(&map, &OPERATION[2..]);
    let destination_ports = field(&map, "ports", "notPorts", port);
    if map.is_empty() {
        operation.fault("an empty operation matches no port; omit `to` to match every port");
    }
    Some(Match { destination_ports, ..Match::default() })
}

fn condition(item: &Item<'_>, namespace: &str) -> Option<Match> {
    let map = item.map(&["key", "values", "notValues"]);
    let key = map.require("key")?;
    let (yes, no) = ("values", "notValues");
    let account = |i: &Item<'_>| account(i, namespace);
    if map.get(yes).is_none() && map.get(no).is_none() {
        item.fault("has neither values nor notValues, so it would always be true");
    }
    let mut read = Match::default();
    match key.text()?.as_str() {
        "source.ip" => read.source_ips = field(&map, yes, no, block),
        "source.namespace" => read.namespaces = field(&map, yes, no, text),
        "source.principal" => read.principals = field(&map, yes, no, principal),
        "source.serviceAccount" => read.service_accounts = field(&map, yes, no, account),
        "destination.ip" => read.destination_ips = field(&map, yes, no, block),
        "destination.port" => read.destination_ports = field(&map, yes, no, port),
        other => {
            key.fault(format!(
                "{other:?} is not an L4 condition; adit knows source.ip, source.namespace, \
                 source.principal, source.serviceAccount, destination.ip, destination.port"
            ));
            return None;
        }
    }
    Some(read)
}

/// An empty list would match everybody, which is hardly what was meant.
fn refuse_empty(map: &Map<'_>, key: &str) {
    if let Some(item) = map.get(key).filter(|i| i.list().is_empty()) {
        item.fault("is empty; omit it, or list values");
    }
}

fn field<T>(
    map: &Map<'_>,
    yes: &str,
    no: &str,
    one: impl Fn(&Item<'_>) -> Option<T>,
) -> FieldMatch<T> {
    let read = |key: &str| map.list(key).iter().filter_map(&one).collect();
    refuse_empty(map, yes);
    refuse_empty(map, no);
    FieldMatch { any: read(yes), none: read(no) }
}

fn text(item: &Item<'_>) -> Option<StringMatch> {
    let text = item.text()?;
    let read = StringMatch::parse(&text);
    if read.is_none() {
        item.fault(format!("{text:?}: a * may stand only at the beginning or at the end"));
    }
    read
}

fn principal(item: &Item<'_>) -> Option<StringMatch> {
    let said = item.text()?;
    if let Some(rest) = said.strip_prefix("spiffe://") {
        item.fault(format!("principals are written without spiffe://; did you mean {rest}?"));
        return None;
    }
    if !said.contains(['/', '*']) {
        item.fault(format!(
            "{said:?} is not a valid principal; for example cluster.local/ns/shop/sa/web"
        ));
        return None;
    }
    text(item)
}

fn account(item: &Item<'_>, own: &str) -> Option<ServiceAccountMatch> {
    let text = item.text()?;
    let (namespace, account) = text.split_once('/').unwrap_or((own, &text));
    if namespace.is_empty() || account.is_empty() || account.contains('/') || text.contains('*') {
        item.fault(format!("{text:?}: must be ACCOUNT or NAMESPACE/ACCOUNT"));
        return None;
    }
    Some(ServiceAccountMatch { namespace: namespace.into(), account: account.into() })
}

fn block(item: &Item<'_>) -> Option<ipnet::IpNet> {
    let text = item.text()?;
    let address = text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from).ok();
    address.or_else(|| item.parse("10.0.0.0/8 or 10.1.2.3")).map(canonical_block)
}

fn port(item: &Item<'_>) -> Option<u16> {
    item.parse::<u16>("\"5432\"").filter(|p| {
        let legal = *p != 0;
        if !legal {
            item.fault("port 0 does not exist");
        }
        legal
    })
}
