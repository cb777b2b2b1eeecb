//! What is counted of trust bundles and CRLs: by whom peers are judged.

use prometheus::{Error, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::register::{counters, gauge, gauges};

/// Trust bundles and CRLs.
#[derive(Debug)]
pub struct TrustMetrics {
    /// CRLs that cannot be used and so revoke nothing, per trust domain that has CRLs.
    pub crl_faults: IntGaugeVec,
    /// 1 while the CRL file of `CRL_PATH` cannot be read: the CRLs read last stay in force; if
    /// there are none, no peer is trusted.
    pub crl_file_faults: IntGauge,
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
                "CRLs that cannot be used, and therefore revoke nothing",
                &["trust_domain"],
            )?,
            crl_file_faults: gauge(
                registry,
                "adit_crl_file_faults",
                "1 while the file of CRLs (CRL_PATH) cannot be read, else 0: adit uses the CRLs it \
                 read last, or trusts no peer if it has read none",
            )?,
            federation_fetches: counters(
                registry,
                "adit_federation_fetches_total",
                "Attempts to fetch the bundle of another trust domain, by result",
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
