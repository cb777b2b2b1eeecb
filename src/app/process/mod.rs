//! What every process that serves has around it: signals, a sandbox, and the
//! service manager with its watchdog.

pub(super) mod readiness;
pub(super) mod sandbox;
pub(super) mod signals;
pub(super) mod watchdog;
