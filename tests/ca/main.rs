//! `adit ca serve` as a process on loopback, and adit's istiod source as its client: who gets an
//! SVID, and why others do not.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod away;
mod bans;
mod callers;
mod issuer;
#[path = "../support/manager.rs"]
mod manager;
#[path = "../support/pipe.rs"]
mod pipe;
#[path = "../support/process.rs"]
mod process;
mod raw;
mod refusals;
mod reload;
mod server;
mod service;
mod shortage;
mod trust;
#[path = "../support/wait.rs"]
mod wait;
mod web;
