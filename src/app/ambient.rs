//! The ambient node: pods that istio-cni announces, a mesh and SVIDs from a control plane.

use super::{
    RunError,
    announce::{announce, speak_as_node_proxy},
};
use crate::{config::environment::Environment, observe::Telemetry};

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// If it cannot start.
pub fn run(environment: Environment) -> Result<(), RunError> {
    crate::sys::process::harden();
    let _logging = announce(&environment)?;
    let telemetry = Telemetry::new().map_err(anyhow::Error::from)?;
    speak_as_node_proxy(&telemetry, &environment);
    Err(RunError::Start(anyhow::anyhow!("the ambient node is not built yet")))
}
