//! `ca: { broker: … }` of the mesh file (incubating, as the SPIFFE Broker API is).

use super::{endpoint::endpoint, reader::Item};
use crate::credentials::{
    broker::{BrokerConfig, SOCKET_VARIABLE},
    workload_api::client::ENDPOINT_VARIABLE,
};

/// Reads it.
pub(super) fn read(item: &Item<'_>) -> Option<BrokerConfig> {
    let section = item.map(&["socket", "workloadApi", "providerId"]);
    let socket = endpoint(&section, "socket", SOCKET_VARIABLE, "unix:///run/spire/broker.sock");
    let example = "unix:///run/spire/agent.sock";
    let workload_api = endpoint(&section, "workloadApi", ENDPOINT_VARIABLE, example);
    let provider_id = section.require("providerId").and_then(|item| {
        let id = item.parse::<crate::identity::SpiffeId>("spiffe://cluster.local/spire/agent")?;
        if id.path().is_empty() {
            item.fault(format!("{id} is a trust domain; expected the SPIFFE ID of the provider"));
            return None;
        }
        Some(id)
    });
    Some(BrokerConfig { socket: socket?, workload_api: workload_api?, provider_id: provider_id? })
}

#[cfg(test)]
mod tests {
    use crate::config::{CaConfig, Checked, parse};

    const GOOD: &str =
        "socket: 'unix:///b', workloadApi: 'unix:///w', providerId: spiffe://td/agent";

    fn read(broker: &str, workloads: &str) -> Result<Checked, String> {
        let text = format!(
            "trustDomain: td\nca: {{ broker: {{ {broker} }} }}\nworkloads: [{workloads}]\n"
        );
        parse("mesh.yaml", &text).map_err(|f| f.to_string())
    }

    #[test]
    fn a_broker_names_its_socket_its_provider_and_where_its_own_svid_is() {
        let CaConfig::Broker(config) = read(GOOD, "").unwrap().ca else { panic!() };
        assert_eq!(config.socket.to_string(), "unix:///b");
        assert_eq!(config.provider_id.as_str(), "spiffe://td/agent");
        for (bad, says) in [
            ("socket: 'unix:///b', workloadApi: 'unix:///w'", "providerId is missing"),
            (
                "workloadApi: 'unix:///w', providerId: spiffe://td/a",
                "SPIFFE_BROKER_SOCKET is not set",
            ),
            ("socket: 'unix:///b', providerId: spiffe://td/a", "SPIFFE_ENDPOINT_SOCKET is not set"),
            (
                "socket: 'http://b', workloadApi: 'unix:///w', providerId: spiffe://td/a",
                "is not a valid endpoint",
            ),
            (
                "socket: 'unix:///b', workloadApi: 'unix:///w', providerId: spiffe://td",
                "is a trust domain",
            ),
        ] {
            let faults = read(bad, "").unwrap_err();
            assert!(faults.contains(says), "{bad}: {faults}");
        }
    }

    #[test]
    fn each_pod_has_something_to_be_asked_by() {
        let uid = "a1b2c3d4-e5f6-7890-abcd-ef1234567890";
        let one = format!("{{ name: a, addresses: [10.0.0.1], uid: {uid} }}");
        let checked = read(GOOD, &one).unwrap();
        assert_eq!(checked.local_workloads()[0].pod_uid().map(|u| &**u), Some(uid));
        let by_pid = "{ name: a, addresses: [10.0.0.1], netns: 'pid:7' }";
        assert!(read(GOOD, by_pid).is_ok());
        assert!(read(GOOD, "{ name: a, addresses: [10.0.0.1], netns: /proc/7/ns/net }").is_ok());
        let remote = GOOD.replace("unix:///b", "tcp://b:1");
        let twice =
            format!("{one}, {}", one.replace("name: a", "name: b").replace(".1]", ".2], netns: x"));
        for (socket, workloads, says) in [
            (GOOD, "{ name: a, addresses: [10.0.0.1] }", "uid is missing in default/a"),
            (GOOD, "{ name: a, addresses: [10.0.0.1], uid: A1 }", "is not a valid UID of a pod"),
            (
                &remote,
                by_pid,
                "uid is missing in default/a: ca.broker asks for a pod by its UID, because",
            ),
            (GOOD, &twice, "default/a and default/b both have uid"),
        ] {
            let faults = read(socket, workloads).unwrap_err();
            assert!(faults.contains(says), "{workloads}: {faults}");
        }
        let entry = "{ id: /backup, selectors: { uid: 0 } }";
        let api = format!("]\nworkloadApi: {{ socket: /s, entries: [{entry}] }}\nservices: [");
        let warned = read(GOOD, &api).unwrap().warnings;
        assert!(warned[0].to_string().contains("only to pods"), "{warned:?}");
        let other = "{ name: a, addresses: [10.0.0.1], protocol: tcp }";
        assert!(read(GOOD, other).is_ok(), "not carried");
    }
}
