//! What is counted of trust bundles and CRLs: by whom peers are judged.

use prometheus::{Error, IntCounterVec, IntGaugeVec, Registry};

use super::register::{counters, gauges};

/// Trust bundles and CRLs.
#[derive(Debug)]
pub struct TrustMetrics {
    /// CRLs that cannot be used and so revoke nothing, per trust domain that has CRLs.
    pub crl_faults: IntGaugeVec,
    /// Attempts to obtain another trust domain's bundle, by `trust_domain` and `result`:
    /// `fetched`, `failed`.
    pub federation_fetches: IntCounterVec,
}

impl TrustMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            crl_faults: gauges(
                registry,
                "adit_crl_faults",
                "CRLs that cannot be used and so revoke nothing",
                &["trust_domain"],
            )?,
            federation_fetches: counters(
                registry,
                "adit_federation_fetches_total",
                "Attempts to obtain another trust domain's bundle, by result",
                &["trust_domain", "result"],
            )?,
        })
    }

    /// Removes the series of a trust domain that is no longer federated.
    pub fn forget_federation(&self, trust_domain: &str) {
        for result in ["fetched", "failed"] {
            let _ = self.federation_fetches.remove_label_values(&[trust_domain, result]);
        }
    }
}
