//! The section `ca` of the mesh file: which source gives the SVIDs, exactly one.

use std::{path::PathBuf, time::Duration};

use super::{endpoint::endpoint, reader::Item, svid_lifetime::svid_lifetime};
use crate::{
    authority::Upstream,
    credentials::workload_api::{Endpoint, client::ENDPOINT_VARIABLE},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Where SVIDs come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CaConfig {
    /// The CA inside adit.
    Embedded {
        /// Where its root is kept.
        dir: PathBuf,
        /// How long an SVID is valid.
        svid_lifetime: Duration,
        /// The intermediate that signs in place of a root of its own.
        upstream: Option<Upstream>,
    },
    /// Files that somebody else renews.
    Files(crate::credentials::FilesConfig),
    /// A SPIFFE Workload API.
    WorkloadApi(crate::credentials::workload_api::Endpoint),
    /// A SPIFFE Broker API (incubating).
    Broker(crate::credentials::broker::BrokerConfig),
    /// istiod, or whoever speaks its CA API.
    Istiod(crate::credentials::IstiodConfig),
}

/// Reads the section `ca`.
pub(super) fn read(item: &Item<'_>) -> Option<CaConfig> {
    const SOURCES: &[&str] = &["embedded", "files", "workloadApi", "istiod", "broker"];
    let ca = item.map(SOURCES);
    let mut named = SOURCES.iter().filter_map(|name| Some((*name, ca.get(name)?)));
    let (name, item) = match (named.next(), named.next()) {
        (Some(one), None) => one,
        (Some((name, _)), Some((other, item))) => {
            item.fault(format!("only one source is allowed: {name} and {other} are given"));
            return None;
        }
        (None, _) => {
            ca.of.lacks(format!("a source is missing: set one of {}", SOURCES.join(", ")));
            return None;
        }
    };
    match name {
        "files" => super::files::read(&item).map(CaConfig::Files),
        "workloadApi" => read_workload_api(&item).map(CaConfig::WorkloadApi),
        "broker" => super::broker::read(&item).map(CaConfig::Broker),
        "istiod" => super::istiod::read(&item).map(CaConfig::Istiod),
        _ => read_embedded(&item),
    }
}

fn read_workload_api(item: &Item<'_>) -> Option<Endpoint> {
    let section = item.map(&["socket"]);
    endpoint(&section, "socket", ENDPOINT_VARIABLE, "unix:///run/spire/agent.sock")
}

fn read_embedded(item: &Item<'_>) -> Option<CaConfig> {
    let embedded = item.map(&["dir", "svidLifetime", "upstream"]);
    let dir = embedded.require("dir")?.text()?.into();
    let svid_lifetime = svid_lifetime(&embedded, HOUR)?;
    let upstream = embedded.get("upstream").map(|item| upstream(&item));
    let upstream = upstream.map_or(Some(None), |read| read.map(Some))?;
    Some(CaConfig::Embedded { dir, svid_lifetime, upstream })
}

fn upstream(item: &Item<'_>) -> Option<Upstream> {
    let files = item.map(&["certificate", "privateKey", "bundle"]);
    let file = |key| files.require(key).and_then(|item| item.text()).map(PathBuf::from);
    let (certificate, private_key, bundle) =
        (file("certificate"), file("privateKey"), file("bundle"));
    Some(Upstream { certificate: certificate?, private_key: private_key?, bundle: bundle? })
}
