//! The ambient node: pods that istio-cni announces, a mesh and SVIDs from a control plane.

use super::RunError;
use crate::config::environment::Environment;

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// If it cannot start.
pub fn run(_environment: Environment) -> Result<(), RunError> {
    Err(RunError::Start(anyhow::anyhow!("the ambient node is not built yet")))
}
