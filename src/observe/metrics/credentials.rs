//! What is counted of the SVIDs and certificates that this process shows.

use prometheus::{Error, GaugeVec, IntCounterVec, Registry};

use super::register::{counters, retain, seconds};

/// Own identities.
#[derive(Debug)]
pub struct CredentialMetrics {
    /// SVID renewals, by `result` (`issued`, `failed`) and `source`.
    pub renewals: IntCounterVec,
    /// End of validity per own identity, Unix seconds.
    pub not_after: GaugeVec,
    /// When an SVID was last obtained per own identity, Unix seconds.
    pub last_success: GaugeVec,
    /// How long all own identities survive without their source; no series while there is none.
    pub outage_budget: GaugeVec,
}

impl CredentialMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            renewals: counters(
                registry,
                "adit_svid_renewals_total",
                "SVID renewals, by result and source",
                &["result", "source"],
            )?,
            not_after: seconds(
                registry,
                "adit_svid_not_after_seconds",
                "When this process's SVIDs expire, in Unix time",
                &["identity"],
            )?,
            last_success: seconds(
                registry,
                "adit_svid_last_success_timestamp_seconds",
                "When an SVID was last obtained for an identity of this process, in Unix time",
                &["identity"],
            )?,
            outage_budget: seconds(
                registry,
                "adit_identity_outage_budget_seconds",
                "Seconds until the first of this process's SVIDs expires, if their source does \
                 not answer",
                &[],
            )?,
        })
    }

    /// Removes the series of identities for which `is_ours` says no. One that stayed would look
    /// like a certificate that nobody renews.
    pub fn retain(&self, is_ours: impl Fn(&str) -> bool) {
        for family in [&self.not_after, &self.last_success] {
            retain(family, &["identity"], |values| is_ours(values[0]));
        }
    }

    /// Removes the series of an identity that this process no longer has.
    pub fn forget(&self, identity: &str) {
        let _ = self.not_after.remove_label_values(&[identity]);
        let _ = self.last_success.remove_label_values(&[identity]);
    }
}
