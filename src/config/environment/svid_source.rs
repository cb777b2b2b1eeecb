//! Where the SVIDs of pods come from, where that is not the CA of `CA_ADDRESS`: a SPIFFE provider,
//! such as SPIRE, beside a mesh that istiod tells of.

use super::variables::Variables;
use crate::{
    credentials::{
        broker::{BrokerConfig, BrokerEndpoint, SOCKET_VARIABLE},
        workload_api::{Endpoint, client::ENDPOINT_VARIABLE},
    },
    identity::SpiffeId,
};

const NAME: &str = "ADIT_SVID_SOURCE";
const PROVIDER: &str = "ADIT_BROKER_PROVIDER_ID";

/// Who issues SVIDs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum SvidSource {
    /// The CA of `CA_ADDRESS`.
    #[default]
    Istiod,
    /// The SPIFFE Workload API, which must give this process the SVIDs of all pods of the node.
    WorkloadApi(Endpoint),
    /// A SPIFFE Broker API (incubating), which is asked for each pod by its UID.
    Broker(BrokerConfig),
}

impl SvidSource {
    /// As it is configured and shown.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Istiod => "istiod",
            Self::WorkloadApi(_) => "workloadApi",
            Self::Broker(_) => "broker",
        }
    }

    pub(super) fn read(vars: &Variables) -> Self {
        let found = match vars.text(NAME).unwrap_or_default() {
            "" | "istiod" => Some(Self::Istiod),
            "workloadApi" => workload_api(vars).map(Self::WorkloadApi),
            "broker" => broker(vars).map(Self::Broker),
            _ => {
                vars.fault(NAME, "istiod, workloadApi or broker");
                None
            }
        };
        if vars.text(NAME).is_none_or(str::is_empty) {
            let instead = "SVIDs come from the CA of CA_ADDRESS; ADIT_SVID_SOURCE=workloadApi or \
                           broker takes them from SPIRE";
            warn_of_unused(vars, &[ENDPOINT_VARIABLE, SOCKET_VARIABLE, PROVIDER], instead);
        } else if matches!(found, Some(Self::WorkloadApi(_))) {
            let instead = "ADIT_SVID_SOURCE is workloadApi; only broker uses it";
            warn_of_unused(vars, &[SOCKET_VARIABLE, PROVIDER], instead);
        }
        found.unwrap_or_default()
    }
}

fn warn_of_unused(vars: &Variables, names: &[&str], instead: &str) {
    let given = names.iter().filter(|name| vars.text(name).is_some_and(|value| !value.is_empty()));
    given.for_each(|name| vars.warn(format!("{name} is ignored: {instead}")));
}

fn workload_api(vars: &Variables) -> Option<Endpoint> {
    required(vars, ENDPOINT_VARIABLE, "an endpoint, such as unix:///run/spire/agent.sock")
}

fn broker(vars: &Variables) -> Option<BrokerConfig> {
    let socket: Option<BrokerEndpoint> =
        required(vars, SOCKET_VARIABLE, "an endpoint, such as unix:///run/spire/broker.sock");
    let expected = "the SPIFFE ID of the provider, such as spiffe://cluster.local/spire/agent";
    let provider_id = required::<SpiffeId>(vars, PROVIDER, expected).filter(|id| {
        let names_nobody = id.path().is_empty();
        if names_nobody {
            vars.fault(PROVIDER, expected);
        }
        !names_nobody
    });
    let workload_api = workload_api(vars);
    Some(BrokerConfig { socket: socket?, workload_api: workload_api?, provider_id: provider_id? })
}

/// What must be there once the source is named.
fn required<T: std::str::FromStr>(vars: &Variables, name: &str, expected: &str) -> Option<T> {
    if vars.text(name).is_none() {
        vars.fault(name, expected);
    }
    vars.parse(name, expected)
}
