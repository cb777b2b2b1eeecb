//! The section `workloads` of the mesh file.

use std::{collections::BTreeSet, sync::Arc};

use super::addresses::{Taken, addresses};
use crate::{
    config::reader::{Item, Map},
    identity::{SpiffeId, TrustDomain},
    mesh::{AppHop, AppNames, Labels, LocalPod, NetnsRef, NonTcp, Protocol, Template, Workload},
    observe::Feature,
};

const APP_HOPS: &[(&str, AppHop)] = &[("tcp", AppHop::Tcp), ("sockmap", AppHop::Sockmap)];

const KEYS: &[&str] = &[
    "name",
    "uid",
    "namespace",
    "serviceAccount",
    "trustDomain",
    "addresses",
    "node",
    "netns",
    "labels",
    "protocol",
    "appHop",
    "nonTcp",
];

/// What workloads have that say nothing themselves.
#[derive(Clone, Copy, Default)]
pub(super) struct OfAll {
    pub(super) app_hop: AppHop,
    pub(super) non_tcp: NonTcp,
}

impl OfAll {
    /// What the section `capture` says.
    pub(super) fn read(capture: Option<&Map<'_>>) -> Self {
        let Some(capture) = capture else { return Self::default() };
        let app_hop = capture.get("appHop").and_then(|hop| app_hop(&hop));
        let non_tcp = capture.get("nonTcp").and_then(|verdict| verdict.word(&NonTcp::WORDS));
        Self { app_hop: app_hop.unwrap_or_default(), non_tcp: non_tcp.unwrap_or_default() }
    }
}

fn app_hop(item: &Item<'_>) -> Option<AppHop> {
    let hop = item.word(APP_HOPS)?;
    if hop == AppHop::Sockmap {
        let missing = |missing| item.fault(format!("{missing}, or use tcp"));
        Feature::Sockmap.require().map_err(missing).ok()?;
    }
    Some(hop)
}

/// Those of the file, and whether these are all that it names.
pub(super) fn read_workloads(
    top: &Map<'_>,
    domain: &TrustDomain,
    of_all: OfAll,
    taken: &mut Taken,
) -> (Vec<Workload>, bool) {
    let mut uids = BTreeSet::new();
    let mut all = Vec::new();
    let items = top.list("workloads");
    for item in &items {
        let map = item.map(KEYS);
        // These are read, and told if they are wrong, before what is missing ends it.
        let protocols = [("hbone", Protocol::Hbone), ("tcp", Protocol::Tcp)];
        let protocol = map.get("protocol").and_then(|p| p.word(&protocols)).unwrap_or_default();
        let labels = map.get("labels").map(|l| l.texts()).unwrap_or_default();
        let node = map.get("node").and_then(|n| n.text()).map(Into::into);
        let local = local_pod(&map, of_all);
        let Some(name) = map.require("name").and_then(|n| n.text()) else { continue };
        let or_default = |key| map.get(key).map_or(Some("default".into()), |i| i.text());
        let (Some(namespace), Some(account)) =
            (or_default("namespace"), or_default("serviceAccount"))
        else {
            continue;
        };
        let uid = format!("{namespace}/{name}");
        if !uids.insert(uid.clone()) {
            item.fault(format!("there is already a workload {uid}"));
        }
        let foreign = map.get("trustDomain").map(|t| t.parse::<TrustDomain>("other.example"));
        let Some(domain) = foreign.as_ref().map_or(Some(domain), Option::as_ref) else { continue };
        let id = match SpiffeId::for_service_account(domain, &namespace, &account) {
            Ok(id) => id,
            Err(e) => {
                item.fault(format!(
                    "namespace and serviceAccount do not make a valid SPIFFE ID: {e}"
                ));
                continue;
            }
        };
        let addresses = addresses(&map, &format!("workload {uid}"), taken);
        let known = map.misspells("addresses");
        if addresses.is_empty() && !known {
            map.get("addresses")
                .unwrap_or(item.clone())
                .lacks("addresses is missing: at least one IP address of the pod");
        }
        let labels = labels.into_iter().collect::<Labels>();
        let label = |key| labels.get(key).cloned().unwrap_or_default();
        let (canonical_name, canonical_revision) = (label("app"), label("version"));
        let app = AppNames { canonical_name, canonical_revision, ..AppNames::default() };
        let template = Template { labels, protocol, app, ..Template::new(namespace.into(), id) };
        all.push(Workload {
            uid: uid.into(),
            name: name.into(),
            addresses: addresses.into(),
            node,
            healthy: true,
            template: Arc::new(template),
            local: (local != LocalPod::default()).then(|| Arc::new(local)),
        });
    }
    let whole = all.len() == items.len();
    (all, whole)
}

/// What only the node of a workload knows of it.
fn local_pod(map: &Map<'_>, of_all: OfAll) -> LocalPod {
    let non_tcp = map.get("nonTcp").and_then(|n| n.word(&NonTcp::WORDS));
    LocalPod {
        pod_uid: map.get("uid").and_then(|uid| pod_uid(&uid)),
        netns: map.get("netns").and_then(|n| n.parse::<NetnsRef>("shop-web")),
        app_hop: map.get("appHop").and_then(|hop| app_hop(&hop)).unwrap_or(of_all.app_hop),
        non_tcp: non_tcp.unwrap_or(of_all.non_tcp),
    }
}

/// A UID as Kubernetes assigns it, in lower case.
fn pod_uid(item: &Item<'_>) -> Option<Arc<str>> {
    let uid = item.text()?;
    let digits = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let lengths: Vec<_> = uid.split('-').filter(|part| digits(part)).map(str::len).collect();
    if lengths == [8, 4, 4, 4, 12] && uid.len() == 36 {
        return Some(uid.into());
    }
    item.fault(format!(
        "{uid:?} is not a valid UID of a pod: expected one such as \
         a1b2c3d4-e5f6-7890-abcd-ef1234567890 (kubectl get pod NAME -o jsonpath={{.metadata.uid}})"
    ));
    None
}
