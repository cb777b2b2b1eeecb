//! A node's xDS client against an istiod that says what a scenario has it say.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod cilium;
mod cold_boots;
#[path = "../support/fake_cilium.rs"]
mod fake_cilium;
#[path = "../support/fake_cni.rs"]
mod fake_cni;
#[path = "../support/fake_istiod.rs"]
mod fake_istiod;
mod malformed;
mod on_demand;
mod outages;
#[path = "../support/pki.rs"]
mod pki;
mod pushes;
mod servers;
#[path = "../support/wait.rs"]
mod wait;
mod world;
