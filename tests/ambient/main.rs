//! Ambient nodes as Istio's chart runs them: the real binary with the chart's arguments and
//! environment, an istiod and an istio-cni of ours, and real TCP between captured pods. Runs as
//! root, or as anybody where user namespaces are allowed.
// A scenario that is in no list, or a list that is not in `main`, does not compile.
#![deny(dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

#[path = "../support/agent.rs"]
mod agent;
mod aliases;
mod calls;
mod cilium;
mod compliance;
#[path = "../support/corpus.rs"]
#[allow(dead_code, reason = "one type of it is used")]
mod corpus;
#[path = "../support/datagrams.rs"]
#[allow(dead_code, reason = "whoever is captured sends from no port of its choice")]
mod datagrams;
mod endings;
mod endpoints;
#[path = "../support/envoy.rs"]
mod envoy;
#[path = "../support/fake_cilium.rs"]
mod fake_cilium;
#[path = "../support/fake_cni.rs"]
mod fake_cni;
#[path = "../support/fake_istiod.rs"]
mod fake_istiod;
#[path = "../support/fake_spire.rs"]
mod fake_spire;
#[path = "../support/forge.rs"]
#[allow(dead_code, reason = "an attacker needs little here")]
mod forge;
mod gateways;
#[path = "../support/grpc_server.rs"]
mod grpc_server;
#[path = "../support/harness.rs"]
mod harness;
mod istiod;
#[path = "../support/lab.rs"]
#[allow(dead_code, reason = "its adit is another")]
mod lab;
#[path = "../support/mounted.rs"]
mod mounted;
mod names;
mod node;
mod non_tcp;
mod on_demand;
mod on_demand_istiod;
mod original_port;
mod outages;
#[path = "../support/pki.rs"]
mod pki;
mod pods;
mod policies;
#[path = "../support/process.rs"]
mod process;
mod resources;
mod revocation;
mod rollouts;
#[path = "../support/rules_of_cni.rs"]
mod rules_of_cni;
mod scrapes;
mod settings;
mod socks;
#[path = "../support/spiffe_ids.rs"]
#[allow(dead_code, reason = "what is forged elsewhere has more")]
mod spiffe_ids;
mod spire;
mod storms;
#[path = "../support/wait.rs"]
mod wait;
mod waypoints;
#[path = "../support/wire.rs"]
mod wire;
mod world;

fn main() {
    let ours = [
        calls::TESTS,
        policies::TESTS,
        pods::TESTS,
        outages::TESTS,
        names::TESTS,
        non_tcp::TESTS,
        rollouts::TESTS,
        scrapes::TESTS,
        socks::TESTS,
        endings::TESTS,
        cilium::TESTS,
        endpoints::TESTS,
        revocation::TESTS,
        on_demand::TESTS,
        spire::TESTS,
        compliance::TESTS,
        storms::TESTS,
        aliases::TESTS,
        settings::TESTS,
        original_port::TESTS,
    ];
    let with_envoy = [waypoints::TESTS, gateways::TESTS];
    match envoy::program() {
        Some(_) => harness::run(&[ours.as_slice(), &with_envoy].concat().concat()),
        None => {
            let left = with_envoy.concat().len();
            println!(
                "left out: {left} scenarios with Envoy, which scripts/interop/waypoint.sh runs"
            );
            harness::run(&ours.concat())
        }
    }
}
