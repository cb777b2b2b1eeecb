//! What every process that serves has around it: signals, and the service manager with its watchdog.

pub(super) mod readiness;
pub(super) mod signals;
pub(super) mod watchdog;
