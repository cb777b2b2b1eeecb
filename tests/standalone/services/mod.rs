//! `adit proxy` as a process on loopback: services from one file, exchanged while they run; targets
//! that come and go; policies; an imported stunnel.conf; what is logged and counted of peers.

mod checks;
mod counted;
mod edits;
mod files;
mod policies;
#[cfg(feature = "rego")]
mod rego;
mod targets;
mod words;
mod world;
