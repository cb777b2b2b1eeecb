//! What every process that serves has around it: signals, a sandbox, the service manager with its
//! watchdog, and the program that is started once more.

pub(super) mod readiness;
pub(super) mod sandbox;
pub(super) mod self_exec;
pub(super) mod signals;
pub(super) mod watchdog;
