//! Scenarios with real capture, in namespaces of their own. Runs as root, or as anybody where
//! user namespaces are allowed: the process moves into fresh ones before its first thread.
// A scenario that is in no list, or a list that is not in `main`, does not compile.
#![deny(dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod admin;
mod announced;
mod authorities;
mod bans;
mod ca_server;
#[path = "../support/corpus.rs"]
mod corpus;
#[path = "../support/datagrams.rs"]
mod datagrams;
#[path = "../support/fake_cni.rs"]
mod fake_cni;
mod floods;
#[path = "../support/forge.rs"]
mod forge;
#[path = "../support/harness.rs"]
mod harness;
mod hold_ups;
mod impersonation;
mod kept_rules;
#[path = "../support/lab.rs"]
mod lab;
#[path = "../support/manager.rs"]
mod manager;
mod mesh;
mod namespaces;
mod non_tcp;
mod order;
#[path = "../support/pipe.rs"]
mod pipe;
#[path = "../support/process.rs"]
mod process;
mod redirects;
mod refusals;
mod revocation;
#[path = "../support/rules_of_cni.rs"]
mod rules_of_cni;
mod service;
#[cfg(feature = "sockmap")]
mod short_way;
mod shortage;
#[path = "../support/spiffe_ids.rs"]
mod spiffe_ids;
mod stalls;
mod starts;
mod strict;
mod svid_corpus;
mod takeover;
mod takeover_pods;
mod tampering;
#[path = "../support/wait.rs"]
mod wait;
mod workers;

fn main() {
    let all = [
        admin::TESTS,
        announced::TESTS,
        announced::non_tcp::TESTS,
        announced::watchdog::TESTS,
        authorities::TESTS,
        bans::TESTS,
        mesh::TESTS,
        namespaces::TESTS,
        non_tcp::TESTS,
        ca_server::TESTS,
        redirects::TESTS,
        refusals::TESTS,
        impersonation::TESTS,
        floods::TESTS,
        stalls::TESTS,
        strict::TESTS,
        takeover::TESTS,
        takeover_pods::TESTS,
        tampering::TESTS,
        hold_ups::TESTS,
        kept_rules::TESTS,
        starts::TESTS,
        service::TESTS,
        #[cfg(feature = "sockmap")]
        short_way::TESTS,
        workers::TESTS,
        order::TESTS,
        shortage::TESTS,
        revocation::TESTS,
        svid_corpus::TESTS,
    ];
    harness::run(&all.concat());
}
