//! The source of SVIDs that the mesh file names.

use std::sync::Arc;

use crate::{
    authority::EmbeddedCa,
    config::CaConfig,
    credentials::{Files, Istiod, Source, broker::Broker, workload_api::WorkloadApi},
    identity::TrustDomain,
};

/// Opens it. Needs a running runtime.
///
/// # Errors
/// If it cannot work at all: what must be mended before the start. A source that does not
/// answer yet is no error.
pub(super) fn open(ca: &CaConfig, trust_domain: &TrustDomain) -> anyhow::Result<Arc<dyn Source>> {
    Ok(match ca {
        CaConfig::Embedded { dir, svid_lifetime, upstream } => {
            let lifetime = *svid_lifetime;
            let ca = EmbeddedCa::open_under(dir, trust_domain, lifetime, upstream.clone())?;
            let ca = Arc::new(ca);
            ca.keep_fresh();
            ca
        }
        CaConfig::Files(config) => Arc::new(Files::open(config.clone(), trust_domain.clone())),
        CaConfig::WorkloadApi(endpoint) => Arc::new(WorkloadApi::follow(endpoint)),
        CaConfig::Broker(config) => Arc::new(Broker::follow(config.clone())),
        CaConfig::Istiod(config) => Arc::new(Istiod::new(config.clone())),
    })
}
