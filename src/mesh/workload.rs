//! A workload: one pod, VM or host that has addresses and, if in the mesh, an identity.

use std::{collections::BTreeMap, sync::Arc};

use super::{Addresses, AppHop, Gateway, LocalPod, Name, NetnsRef, NonTcp, ServicePort};
use crate::{identity::SpiffeId, observe::conn::Names};

/// How to reach a workload.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// In the mesh: HBONE to port 15008.
    #[default]
    Hbone,
    /// Not in the mesh: plain TCP.
    Tcp,
}

/// Labels of a pod, by key.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of one.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let at = self.0.binary_search_by(|(there, _)| (**there).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let texts = labels.into_iter().map(|(key, value)| (key.into(), value.into()));
        let sorted: BTreeMap<Arc<str>, Arc<str>> = texts.collect();
        Self(sorted.into_iter().collect())
    }
}

/// What a workload is part of: the kind of its Kubernetes object.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum WorkloadKind {
    /// A Deployment, or anything that is none of the others.
    #[default]
    Deployment,
    /// A CronJob.
    CronJob,
    /// A pod by itself.
    Pod,
    /// A Job.
    Job,
}

impl WorkloadKind {
    /// As Istio's dumps and `baggage` have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// What metrics and records call the application of a workload.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct AppNames {
    /// The name of the Deployment or of what else it is part of.
    pub workload: Arc<str>,
    /// What that is.
    pub kind: WorkloadKind,
    /// Istio's canonical service, such as the label `app`.
    pub canonical_name: Arc<str>,
    /// Its revision, such as the label `version`.
    pub canonical_revision: Arc<str>,
}

/// Where a workload runs.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Locality {
    /// A region of a cloud.
    pub region: Arc<str>,
    /// A zone.
    pub zone: Arc<str>,
    /// A part of a zone.
    pub subzone: Arc<str>,
}

/// That a workload is behind a service, and at which ports.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Membership {
    /// The service's namespace.
    pub namespace: Arc<str>,
    /// Its host name.
    pub hostname: Arc<str>,
    /// The ports of the service that this workload has elsewhere than the service says.
    pub ports: Box<[ServicePort]>,
}

impl Membership {
    /// By what a workload's memberships are ordered, each service once.
    #[must_use]
    pub fn key(&self) -> (&str, &str) {
        (&self.hostname, &self.namespace)
    }
}

/// How HBONE that arrives for a workload is given to its application, if not as plain TCP to the
/// port that the caller named.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AppTunnel {
    /// A PROXY protocol header (version 2) tells the application who calls.
    pub proxy_protocol: bool,
    /// The application's port, whichever was named.
    pub port: Option<u16>,
}

/// What the pods of one deployment have in common; the store keeps one copy for all of them.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Template {
    /// The network in which their addresses mean them; empty for the only one.
    pub network: Arc<str>,
    /// Their namespace.
    pub namespace: Arc<str>,
    /// Their SPIFFE ID, `spiffe://<td>/ns/<namespace>/sa/<service account>`.
    pub id: SpiffeId,
    /// Their labels, if the source tells them.
    pub labels: Labels,
    /// In the mesh or not.
    pub protocol: Protocol,
    /// The policies that select them by label, `namespace/name` each, in the order in which they
    /// are asked. Those of a whole namespace or mesh are not among them.
    pub policies: Arc<[Arc<str>]>,
    /// The services that they are behind, in the order of host name and namespace.
    pub services: Arc<[Membership]>,
    /// What metrics call them.
    pub app: AppNames,
    /// Their cluster.
    pub cluster: Arc<str>,
    /// Where they run.
    pub locality: Locality,
    /// The waypoint that calls to these addresses go through.
    pub waypoint: Option<Arc<Gateway>>,
    /// The gateway that calls from other networks go through.
    pub network_gateway: Option<Arc<Gateway>>,
    /// How their applications get HBONE that arrives.
    pub app_tunnel: Option<AppTunnel>,
    /// A name for those that have no address.
    pub hostname: Option<Arc<str>>,
    /// They have the address of their node, so it does not mean them alone.
    pub host_network: bool,
    /// They speak HBONE themselves.
    pub native_tunnel: bool,
    /// Their weight among the endpoints of a service; 0 is never chosen.
    pub capacity: u32,
}

impl Template {
    /// Of pods of which nothing else is known.
    #[must_use]
    pub fn new(namespace: Arc<str>, id: SpiffeId) -> Self {
        Self {
            network: Arc::default(),
            namespace,
            id,
            labels: Labels::default(),
            protocol: Protocol::default(),
            policies: Arc::default(),
            services: Arc::default(),
            app: AppNames::default(),
            cluster: Arc::default(),
            locality: Locality::default(),
            waypoint: None,
            network_gateway: None,
            app_tunnel: None,
            hostname: None,
            host_network: false,
            native_tunnel: false,
            capacity: 1,
        }
    }
}

/// One workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workload {
    /// Unique in the mesh: `namespace/name` in a mesh file, longer ones from a control plane.
    pub uid: Arc<str>,
    /// The pod's name, as [`Workload::name`] gives it.
    pub name: Name,
    /// Its IP addresses.
    pub addresses: Addresses,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// Whether its platform says that it serves.
    pub healthy: bool,
    /// What it has in common with others.
    pub template: Arc<Template>,
    /// What only its own node knows.
    pub local: Option<Arc<LocalPod>>,
}

impl Workload {
    /// The pod's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.of(&self.uid)
    }

    /// The network in which its addresses mean it.
    #[must_use]
    pub fn network(&self) -> &Arc<str> {
        &self.template.network
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Arc<str> {
        &self.template.namespace
    }

    /// Its service account, which is part of its SPIFFE ID.
    #[must_use]
    pub fn service_account(&self) -> &str {
        self.id().kubernetes().map_or("", |(_, account)| account)
    }

    /// Its SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.template.id
    }

    /// Its labels.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.template.labels
    }

    /// In the mesh or not.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.template.protocol
    }

    /// The policies that select it by label.
    #[must_use]
    pub fn policies(&self) -> &Arc<[Arc<str>]> {
        &self.template.policies
    }

    /// The services that it is behind.
    #[must_use]
    pub fn services(&self) -> &[Membership] {
        &self.template.services
    }

    /// Whether it is behind a service, and at which ports of its own.
    #[must_use]
    pub fn membership(&self, namespace: &str, hostname: &str) -> Option<&Membership> {
        let all = self.services();
        let at = all.binary_search_by(|there| there.key().cmp(&(hostname, namespace))).ok()?;
        Some(&all[at])
    }

    /// Its UID in Kubernetes, if this node knows it.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&Arc<str>> {
        self.local.as_ref()?.pod_uid.as_ref()
    }

    /// Its network namespace; `None` is the process's own.
    #[must_use]
    pub fn netns(&self) -> Option<&NetnsRef> {
        self.local.as_ref()?.netns.as_ref()
    }

    /// How its applications' bytes come to us.
    #[must_use]
    pub fn app_hop(&self) -> AppHop {
        self.local.as_ref().map_or(AppHop::Tcp, |local| local.app_hop)
    }

    /// What happens to its non-TCP traffic: pass, count or drop.
    #[must_use]
    pub fn non_tcp(&self) -> NonTcp {
        self.local.as_ref().map_or(NonTcp::Pass, |local| local.non_tcp)
    }

    /// What records call it.
    #[must_use]
    pub fn names(&self) -> Arc<Names> {
        let Template { app, cluster, locality, .. } = &*self.template;
        let given = |text: &Arc<str>| Some(Arc::clone(text)).filter(|text| !text.is_empty());
        let name: Arc<str> = self.name().into();
        let own = Names::of(Arc::clone(&name), Arc::clone(self.namespace()));
        Arc::new(Names {
            workload: given(&app.workload).unwrap_or_else(|| Arc::clone(&name)),
            app: given(&app.canonical_name).unwrap_or(name),
            version: given(&app.canonical_revision),
            cluster: given(cluster),
            region: given(&locality.region),
            zone: given(&locality.zone),
            ..own
        })
    }
}
