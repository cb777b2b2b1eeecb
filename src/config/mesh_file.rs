//! The mesh file: workloads, services, policies and how this process takes part.

mod addresses;
mod checks;
mod services;
mod workloads;

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use self::{
    checks::{check_namespaces, check_node, check_references, check_trust_domains},
    workloads::{OfAll, read_workloads},
};
use super::{
    CaConfig, Fault, Faults, FederationConfig, KeyLines, LoadError, Settings, bounds, ca,
    kind::{FileKind, or_other},
    policies,
    reader::{Item, Map, Notes, documents},
    service_ports,
    unmatched::KnownPrincipals,
    workload_api,
};
use crate::{
    identity::{TrustDomain, shown},
    mesh::{
        MtlsMode, NonTcp, Protocol, Service, Workload,
        source::file::{MeshParts, selects},
    },
    pods::capture::{Capture, Options as CaptureOptions},
    policy::Policy,
};

/// The longest mesh file that is read, bytes.
const MAX_FILE: u64 = 16 << 20;

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
    Ok(parse(&shown(path), &text).map_err(|f| or_other(f, &text, FileKind::Mesh))?)
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
    let root = Item::root(document, &notes);
    match refuse_resource(&root).and_then(|()| read(&root, &file.into())) {
        Some(mut checked) if notes.is_clean() => {
            checked.warnings = notes.into_warnings();
            Ok(checked)
        }
        _ if notes.is_clean() => Err(Faults::at_start(file, "incomplete")),
        _ => Err(notes.into_faults(file)),
    }
}

/// A file for `kubectl apply` is told what of it belongs into a mesh file.
fn refuse_resource(root: &Item<'_>) -> Option<()> {
    let kind = root.find("apiVersion").and_then(|_| root.find("kind"));
    let Some(kind) = kind else { return Some(()) };
    kind.fault(
        "this is a Kubernetes resource, not a mesh file; put an AuthorizationPolicy into the \
         `policies` list of one, and for a PeerAuthentication write `mtls: strict` or `mtls: \
         permissive` at its top",
    );
    None
}

fn read(root: &Item<'_>, file: &Arc<str>) -> Option<Checked> {
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
    let section =
        top.get("capture").map(|c| c.map(&["rules", "appHop", "nonTcp", "onStop", "probes"]));
    let capture = section.as_ref().and_then(|c| capture(c, mtls));
    let of_all = OfAll::read(section.as_ref());
    let settings = Settings::read(&top);
    let any: TrustDomain = "invalid".parse().ok()?;
    let domain = trust_domain.clone().unwrap_or(any);
    let federation = FederationConfig::read(&top, &domain);
    let mut taken = HashMap::new();
    let (mut workloads, whole) = read_workloads(&top, &domain, of_all, &mut taken);
    let services = services::read_all(&top, (&mut workloads, whole), &mut taken);
    let workload_api =
        top.get("workloadApi").and_then(|item| workload_api::read(&item, &domain, &workloads));
    let items = top.list("policies");
    let read = |item| policies::read_all(item, file).into_iter().map(move |policy| (policy, item));
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
            item.warn("ca.broker gives SVIDs only to pods, so these entries get none");
        }
    }
    let federated = &federation.trust_domains;
    let known = KnownPrincipals { own: &domain, federated, workloads: &workloads };
    let policies = read_policies(policies, &known, &services);
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

/// Those that are read, with what is wrong or strange between them and the workloads.
fn read_policies(
    read: Vec<(Policy, &Item<'_>)>,
    known: &KnownPrincipals<'_>,
    services: &[Service],
) -> Vec<Policy> {
    let mut names = BTreeSet::new();
    for (policy, item) in &read {
        let ports = service_ports::not_of_workloads(policy, known.workloads, services);
        known.unmatched(policy).into_iter().chain(ports).for_each(|why| item.warn(why));
        if !names.insert(policy.key()) {
            item.fault(format!("there is already a policy {}", policy.key()));
        }
        if !known.workloads.iter().any(|w| selects(policy, &w.template)) {
            item.warn(format!("policy {} applies to no workload of this file", policy.key()));
        }
    }
    read.into_iter().map(|(policy, _)| policy).collect()
}

fn capture(section: &Map<'_>, mtls: MtlsMode) -> Option<Capture> {
    let strict = mtls == MtlsMode::Strict;
    let stops = [("keep", false), ("remove", true)];
    let remove_on_stop = section.get("onStop").and_then(|s| s.word(&stops)).unwrap_or(!strict);
    let probes = [("none", false), ("kubelet", true)];
    let kubelet_probes = section.get("probes").and_then(|p| p.word(&probes)).unwrap_or(false);
    let options = CaptureOptions { strict, kubelet_probes, non_tcp: NonTcp::Pass };
    let nft = Capture::Nft { options, remove_on_stop };
    section.require("rules")?.word(&[("nft", nft), ("none", Capture::None)])
}

#[cfg(test)]
mod tests;
