//! What an ambient node says of itself before anything else, in the words and under the names that
//! tools of the mesh know.

use crate::{
    admin::settings,
    config::environment::Environment,
    observe::{BuildInfo, Telemetry, logging::Logging},
};

/// Starts logging, and says which build this is and what it was told.
///
/// # Errors
/// A filter that cannot be parsed, with its variable.
pub(super) fn announce(environment: &Environment) -> anyhow::Result<Logging> {
    let logging = Logging::start(environment.log_format, &environment.log_filter)
        .map_err(|e| anyhow::anyhow!("RUST_LOG: {e}"))?;
    tracing::info!("version: {}", BuildInfo::with_istio(environment.istio_version.as_deref()));
    let limit = crate::sys::process::usage().max_fds;
    tracing::info!(limit, "limit of open file descriptors");
    tracing::info!("running with config: {}", settings(environment));
    for warning in &environment.warnings {
        tracing::warn!("{warning}");
    }
    Ok(logging)
}

/// Has records and metrics speak of this process as the node proxy of the mesh.
pub(super) fn speak_as_node_proxy(telemetry: &Telemetry, environment: &Environment) {
    let release = environment.istio_version.as_deref().unwrap_or("unknown");
    telemetry.live.speak_as_istio();
    if environment.log_authorization {
        telemetry.live.tell_decisions();
    }
    telemetry.metrics.process.set_build("ztunnel", release);
    // Its configuration is its environment, which does not change.
    telemetry.metrics.config.loaded_now();
}
