//! What the configuration says of a SPIFFE Broker API.

use super::endpoint::BrokerEndpoint;
use crate::{credentials::workload_api::Endpoint, identity::SpiffeId};

/// Which provider, and who adit is to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BrokerConfig {
    /// Where the Broker API is served.
    pub socket: BrokerEndpoint,
    /// Where adit gets its own SVID.
    pub workload_api: Endpoint,
    /// Who must serve it.
    pub provider_id: SpiffeId,
}
