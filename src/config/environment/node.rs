//! Who this node is for istiod (istio-ambient facts §6.3).

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

use super::{proxy_config::ProxyConfig, variables::Variables};
use crate::{
    identity::{InvalidSpiffeId, SpiffeId, TrustDomain},
    mesh::source::xds::NodeIdentity,
};

const META: &str = "ISTIO_META_";
const META_JSON: &str = "ISTIO_METAJSON_";

/// The pod that this process runs in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnWorkload {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
}

impl OwnWorkload {
    /// All three are known, or it has no identity of its own.
    pub(super) fn read(vars: &Variables) -> Option<Self> {
        let names = ["POD_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT"];
        let given = names.map(|name| vars.owned(name).filter(|value| !value.is_empty()));
        let [Some(name), Some(namespace), Some(service_account)] = given else { return None };
        Some(Self { name, namespace, service_account })
    }

    /// Its SPIFFE ID.
    ///
    /// # Errors
    /// A namespace or service account that no SPIFFE ID can have.
    pub fn id(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, InvalidSpiffeId> {
        format!("spiffe://{trust_domain}/ns/{}/sa/{}", self.namespace, self.service_account).parse()
    }
}

/// What is said by `proxyMetadata` and by variables, which win, both without `ISTIO_META_`.
pub(super) fn metadata(vars: &Variables, config: &ProxyConfig) -> BTreeMap<String, String> {
    let of_config = config.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let of_config = of_config.map(|(name, value)| (name.strip_prefix(META).unwrap_or(name), value));
    let all = of_config.chain(vars.beginning(META));
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What istiod is told; `metadata` is what [`metadata`] found.
pub(super) fn identity(
    vars: &Variables,
    ip: IpAddr,
    metadata: &BTreeMap<String, String>,
) -> NodeIdentity {
    let [name, namespace, node] = ["POD_NAME", "POD_NAMESPACE", "NODE_NAME"]
        .map(|variable| vars.text(variable).unwrap_or_default());
    // The suffix is these letters whatever the cluster's domain is: istiod counts the parts.
    let id = format!("ztunnel~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local");
    let ip = ip.to_string();
    let own =
        [("NAME", name), ("NAMESPACE", namespace), ("NODE_NAME", node), ("INSTANCE_IPS", &ip)];
    let own = own.map(|(name, value)| (name.to_owned(), Value::from(value)));
    let texts = metadata.iter().map(|(name, value)| (name.clone(), Value::from(&**value)));
    let json = vars.beginning(META_JSON).filter_map(|(name, value)| {
        let parsed = serde_json::from_str(value).ok();
        if parsed.is_none() {
            vars.fault(&format!("{META_JSON}{name}"), "JSON");
        }
        Some((name.to_owned(), parsed?))
    });
    NodeIdentity { id, metadata: own.into_iter().chain(texts).chain(json).collect() }
}
