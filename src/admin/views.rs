//! What `/config_dump` and `/certs` answer. The names of the fields are an interface: one may come,
//! none goes or changes.

use serde::Serialize;

use crate::{
    credentials::{SvidStatus, Svids},
    mesh::{MeshDump, View},
    observe::{ConfigView, Refused},
    tls::record::ChoicesView,
};

/// The mesh in force, and whether it is what the file says.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ConfigDump {
    /// Workloads, services and policies.
    #[serde(flatten)]
    pub(super) mesh: MeshDump,
    /// Our own SVIDs.
    pub(super) certificates: Vec<SvidStatus>,
    /// Whether what is on disk is what is in force.
    pub(super) config: ConfigView,
    /// Who seals TLS records.
    pub(super) tls: ChoicesView,
    /// Of adit.
    pub(super) version: VersionView,
}

/// Of adit.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct VersionView {
    /// Such as `0.1.0`.
    pub(super) version: &'static str,
}

/// Our own SVIDs, and for how long they serve without their source.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CertsView {
    /// Which kind of source issues them.
    pub(super) source: &'static str,
    /// Until the first of them runs out.
    pub(super) outage_budget_seconds: Option<u64>,
    /// That one.
    pub(super) first_to_expire: Option<String>,
    /// Identities that have none.
    pub(super) without_valid_svid: Vec<String>,
    /// Each.
    pub(super) certificates: Vec<SvidStatus>,
}

impl ConfigDump {
    pub(super) fn of(mesh: &View, svids: &Svids, file: Option<Refused>) -> Self {
        Self {
            mesh: mesh.dump(),
            certificates: svids.statuses(),
            config: ConfigView::of(file),
            tls: ChoicesView::now(),
            version: VersionView { version: env!("CARGO_PKG_VERSION") },
        }
    }
}

impl CertsView {
    pub(super) fn of(svids: &Svids) -> Self {
        let budget = svids.outage_budget();
        Self {
            source: svids.source(),
            outage_budget_seconds: budget.seconds,
            first_to_expire: budget.first.map(|id| id.to_string()),
            without_valid_svid: budget.without,
            certificates: svids.statuses(),
        }
    }
}

#[cfg(test)]
mod tests;
