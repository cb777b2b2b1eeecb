//! The mesh file: workloads, services, policies and how this process takes part.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use super::{
    CaConfig, Fault, Faults, FederationConfig, KeyLines, LoadError, Settings, bounds, ca,
    kind::{Kind, or_other},
    policies,
    reader::{Item, Map, Notes, documents},
    unmatched::Known,
    workload_api,
};
use crate::{
    identity::{SpiffeId, TrustDomain, shown},
    mesh::{
        AppHop, Labels, LocalPod, MtlsMode, NetnsRef, Protocol, Template, Workload,
        source::file::{MeshParts, selects},
    },
    node::capture::Options as CaptureOptions,
};

/// The longest mesh file that is read, bytes.
const MAX_FILE: u64 = 16 << 20;

/// Who redirects traffic to adit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Capture {
    /// adit applies nft rules in each pod's namespace.
    Nft {
        /// What they let by.
        options: CaptureOptions,
        /// Whether they are removed when adit stops: then plaintext reaches the pods.
        remove_on_stop: bool,
    },
    /// Somebody else does.
    None,
}

const APP_HOPS: &[(&str, AppHop)] = &[("tcp", AppHop::Tcp), ("sockmap", AppHop::Sockmap)];

/// A mesh file without faults.
#[derive(Debug)]
pub struct Checked {
    /// The mesh.
    pub mesh: MeshParts,
    /// Which node this process is.
    pub node: Option<Arc<str>>,
    /// Where SVIDs come from.
    pub ca: CaConfig,
    /// Other trust domains.
    pub federation: FederationConfig,
    /// Who redirects.
    pub capture: Capture,
    /// Where workloads fetch their SVIDs themselves.
    pub workload_api: Option<super::WorkloadApiConfig>,
    /// Everything else.
    pub settings: Settings,
    /// What is legal and probably not meant.
    pub warnings: Vec<Fault>,
    /// Where the sections `ca` and `federation` stand, to say what is wrong with their files.
    pub sections: [Option<Fault>; 2],
    /// Where the settings stand.
    pub lines: KeyLines,
    /// Where each workload stands, in the order of the file, by uid.
    pub places: Vec<(Arc<str>, Fault)>,
}

impl Checked {
    /// The workloads that this process carries, by uid.
    #[must_use]
    pub fn local_workloads(&self) -> Vec<Arc<Workload>> {
        let here = |w: &&Workload| {
            w.protocol() == Protocol::Hbone && (self.node.is_none() || w.node == self.node)
        };
        let mut local: Vec<_> =
            self.mesh.workloads.iter().filter(here).cloned().map(Arc::new).collect();
        local.sort_by(|a, b| a.uid.cmp(&b.uid));
        local
    }
}

/// Reads and checks a file.
///
/// # Errors
/// All faults at once.
pub fn load(path: &Path) -> Result<Checked, LoadError> {
    let text = bounds::read(path, MAX_FILE)?;
    Ok(parse(&shown(path), &text).map_err(|f| or_other(f, &text, Kind::Mesh))?)
}

/// The text of a file of either kind, or of standard input, which is called `-`.
///
/// # Errors
/// If it cannot be read, or is too long.
pub fn read_text(path: &Path) -> Result<String, LoadError> {
    match path.as_os_str() == "-" {
        true => bounds::read_from(std::io::stdin().lock(), path, MAX_FILE),
        false => bounds::read(path, MAX_FILE),
    }
}

/// Checks a text; `file` is its name in faults.
///
/// # Errors
/// All faults at once.
pub fn parse(file: &str, text: &str) -> Result<Checked, Faults> {
    let notes = Notes::default();
    let documents = documents(text).map_err(|fault| Faults::one(file, fault))?;
    let [document] = documents.as_slice() else {
        return Err(Faults::at_start(
            file,
            "expected one YAML document with the mesh; policies go into its `policies` list",
        ));
    };
    match read(&Item::root(document, &notes)) {
        Some(mut checked) if notes.is_clean() => {
            checked.warnings = notes.into_warnings();
            Ok(checked)
        }
        _ if notes.is_clean() => Err(Faults::at_start(file, "incomplete")),
        _ => Err(notes.into_faults(file)),
    }
}

fn read(root: &Item<'_>) -> Option<Checked> {
    let top = root.map(&[
        "trustDomain",
        "node",
        "mtls",
        "ca",
        "federation",
        "capture",
        "workloads",
        "services",
        "policies",
        "admin",
        "metrics",
        "readiness",
        "drain",
        "accessLog",
        "workers",
        "tls",
        "sandbox",
        "timeouts",
        "pool",
        "limits",
        "peerExpiry",
        "workloadApi",
    ]);
    let trust_domain = top.require("trustDomain").and_then(|t| t.parse("cluster.local"));
    let node: Option<Arc<str>> = top.get("node").and_then(|n| n.text()).map(Into::into);
    let modes = [("strict", MtlsMode::Strict), ("permissive", MtlsMode::Permissive)];
    let mtls = top.get("mtls").and_then(|m| m.word(&modes)).unwrap_or_default();
    let ca = top.require("ca").and_then(|item| ca::read(&item));
    let section = top.get("capture").map(|c| c.map(&["rules", "appHop", "onStop", "probes"]));
    let capture = section.as_ref().and_then(|c| capture(c, mtls));
    let app_hop = section.and_then(|c| c.get("appHop")?.word(APP_HOPS)).unwrap_or_default();
    let settings = Settings::read(&top);
    let any: TrustDomain = "invalid".parse().ok()?;
    let domain = trust_domain.clone().unwrap_or(any);
    let federation = FederationConfig::read(&top, &domain);
    let mut taken = HashMap::new();
    let (workloads, whole) = read_workloads(&top, &domain, app_hop, &mut taken);
    let services = services::read_all(&top, (&workloads, whole), &mut taken);
    let workload_api =
        top.get("workloadApi").and_then(|item| workload_api::read(&item, &domain, &workloads));
    let items = top.list("policies");
    let read = |item| policies::read_all(item).into_iter().map(move |policy| (policy, item));
    let policies: Vec<_> = items.iter().flat_map(read).collect();
    check_node(&top, node.as_deref(), &workloads);
    let redirects = matches!(capture, Some(Capture::Nft { .. }));
    check_namespaces(&top, node.as_deref(), &workloads, redirects);
    if trust_domain.is_some() {
        check_trust_domains(&top, node.as_deref(), &domain, &workloads);
    }
    if let Some(CaConfig::Broker(broker)) = &ca {
        check_references(&top, node.as_deref(), broker, &workloads);
        let entries = workload_api.as_ref().is_some_and(|api| !api.entries.is_empty());
        if let Some(item) = top.get("workloadApi").filter(|_| entries) {
            item.warn("ca.broker gives SVIDs to pods only: these entries get none");
        }
    }
    let known = Known { own: &domain, federated: &federation.trust_domains, workloads: &workloads };
    let mut names = BTreeSet::new();
    for (policy, item) in &policies {
        known.unmatched(policy).into_iter().for_each(|why| item.warn(why));
        if !names.insert(policy.key()) {
            item.fault(format!("there is already a policy {}", policy.key()));
        }
        if !workloads.iter().any(|w| selects(policy, &w.template)) {
            item.warn(format!("policy {} applies to no workload of this file", policy.key()));
        }
    }
    let policies = policies.into_iter().map(|(policy, _)| policy).collect();
    let uids = workloads.iter().map(|w| w.uid.clone());
    let places = uids.zip(top.list("workloads").iter().map(|item| item.at(""))).collect();
    let mut mesh = MeshParts { trust_domain: trust_domain?, mtls, workloads, services, policies };
    mesh.select();
    Some(Checked {
        mesh,
        node,
        ca: ca?,
        federation,
        capture: capture.unwrap_or(Capture::None),
        workload_api,
        settings,
        warnings: Vec::new(),
        places,
        lines: KeyLines::of(root),
        sections: ["ca", "federation"].map(|key| Some(top.get(key)?.at(""))),
    })
}

fn capture(section: &Map<'_>, mtls: MtlsMode) -> Option<Capture> {
    let strict = mtls == MtlsMode::Strict;
    let stops = [("keep", false), ("remove", true)];
    let remove_on_stop = section.get("onStop").and_then(|s| s.word(&stops)).unwrap_or(!strict);
    let probes = [("none", false), ("kubelet", true)];
    let kubelet_probes = section.get("probes").and_then(|p| p.word(&probes)).unwrap_or(false);
    let options = CaptureOptions { strict, kubelet_probes };
    let nft = Capture::Nft { options, remove_on_stop };
    section.require("rules")?.word(&[("nft", nft), ("none", Capture::None)])
}

fn check_node(top: &Map<'_>, node: Option<&str>, workloads: &[Workload]) {
    let nodes: BTreeSet<&str> = workloads.iter().filter_map(|w| w.node.as_deref()).collect();
    match (node, top.get("node")) {
        (None, None) if nodes.len() > 1 => top.of.fault(format!(
            "node is missing: workloads are on several ({}), say which one this process is",
            nodes.into_iter().collect::<Vec<_>>().join(", ")
        )),
        (Some(node), Some(item)) if !nodes.contains(node) => {
            item.warn(format!("no workload is on node {node}"));
        }
        _ => {}
    }
}

/// Those that this process carries.
fn is_on(node: Option<&str>) -> impl Fn(&&Workload) -> bool {
    move |w| w.protocol() == Protocol::Hbone && (node.is_none() || w.node.as_deref() == node)
}

/// Two pods in one namespace would share its ports, and so each other's connections and keys.
fn check_namespaces(top: &Map<'_>, node: Option<&str>, workloads: &[Workload], redirects: bool) {
    let mut seen = HashMap::new();
    for workload in workloads.iter().filter(is_on(node)) {
        if redirects && workload.netns().is_none() {
            top.get("workloads").unwrap_or(top.of.clone()).fault(format!(
                "{} has no netns, so `capture: {{ rules: nft }}` would redirect the traffic of \
                 adit's own namespace, the host's perhaps; name the pod's, or write \
                 `netns: /proc/self/ns/net` if this is meant",
                workload.uid
            ));
        }
        let Some(other) = seen.insert(workload.netns(), &workload.uid) else { continue };
        let netns = workload.netns().map_or("no netns".into(), |n| format!("netns {n}"));
        top.get("workloads").unwrap_or(top.of.clone()).fault(format!(
            "{other} and {} both have {netns}: each pod that this process carries needs a network \
             namespace of its own",
            workload.uid
        ));
    }
}

/// This node's source gives no SVIDs of another trust domain.
fn check_trust_domains(
    top: &Map<'_>,
    node: Option<&str>,
    own: &TrustDomain,
    workloads: &[Workload],
) {
    let foreign = |w: &&Workload| w.id().trust_domain() != own;
    for workload in workloads.iter().filter(is_on(node)).filter(foreign) {
        top.get("workloads").unwrap_or(top.of.clone()).fault(format!(
            "{} is of trust domain {}, and this process would carry it, but has identities of \
             {own} only; name this process's `node`, and the workload's",
            workload.uid,
            workload.id().trust_domain()
        ));
    }
}

/// A broker asks for each pod by what its platform knows it by.
fn check_references(
    top: &Map<'_>,
    node: Option<&str>,
    broker: &crate::credentials::broker::BrokerConfig,
    workloads: &[Workload],
) {
    let mut by_uid = HashMap::new();
    for workload in workloads.iter().filter(is_on(node)) {
        let list = || top.get("workloads").unwrap_or(top.of.clone());
        let pid = workload.netns().and_then(NetnsRef::pid);
        match (workload.pod_uid(), pid) {
            (Some(uid), _) => {
                if let Some(other) = by_uid.insert(uid, &workload.uid) {
                    list().fault(format!("{other} and {} both have uid {uid}", workload.uid));
                }
            }
            (None, Some(_)) if !broker.socket.is_remote() => {}
            (None, pid) => list().fault(format!(
                "uid is missing in {}: ca.broker asks for a pod by its UID{}",
                workload.uid,
                match pid {
                    Some(_) => ", as a process ID means nothing over TCP",
                    None => ", or by a process of it, as in `netns: pid:4711`",
                }
            )),
        }
    }
}

type Taken = HashMap<IpAddr, String>;

fn addresses(map: &Map<'_>, owner: &str, taken: &mut Taken) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for item in map.list("addresses") {
        let Some(ip) = item.parse::<IpAddr>("10.77.0.1 or fd77::1") else { continue };
        let ip = ip.to_canonical();
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            item.fault(format!("{ip} is no address that others can call"));
            continue;
        }
        match taken.insert(ip, owner.into()) {
            Some(other) => item.fault(format!("{ip} is already an address of {other}")),
            None => all.push(ip),
        }
    }
    all
}

/// Those of the file, and whether these are all that it names.
fn read_workloads(
    top: &Map<'_>,
    domain: &TrustDomain,
    app_hop: AppHop,
    taken: &mut Taken,
) -> (Vec<Workload>, bool) {
    let mut uids = BTreeSet::new();
    let mut all = Vec::new();
    let items = top.list("workloads");
    for item in &items {
        let map = item.map(&[
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
        ]);
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
                item.fault(format!("namespace and serviceAccount make no SPIFFE ID: {e}"));
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
        let protocols = [("hbone", Protocol::Hbone), ("tcp", Protocol::Tcp)];
        let labels = map.get("labels").map(|l| l.texts()).unwrap_or_default();
        let local = LocalPod {
            pod_uid: map.get("uid").and_then(|uid| pod_uid(&uid)),
            netns: map.get("netns").and_then(|n| n.parse::<NetnsRef>("shop-web")),
            app_hop: map.get("appHop").and_then(|a| a.word(APP_HOPS)).unwrap_or(app_hop),
        };
        let template = Template {
            network: Arc::default(),
            namespace: namespace.into(),
            id,
            labels: labels.into_iter().collect::<Labels>(),
            protocol: map.get("protocol").and_then(|p| p.word(&protocols)).unwrap_or_default(),
            policies: Arc::default(),
        };
        all.push(Workload {
            uid: uid.into(),
            name: name.into(),
            addresses: addresses.into(),
            node: map.get("node").and_then(|n| n.text()).map(Into::into),
            template: Arc::new(template),
            local: (local != LocalPod::default()).then(|| Arc::new(local)),
        });
    }
    let whole = all.len() == items.len();
    (all, whole)
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
        "{uid:?} is no UID of a pod: expected one such as a1b2c3d4-e5f6-7890-abcd-ef1234567890 \
         (kubectl get pod NAME -o jsonpath={{.metadata.uid}})"
    ));
    None
}

mod services;
#[cfg(test)]
mod tests;
