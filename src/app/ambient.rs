//! The ambient node: pods that istio-cni announces, a mesh and SVIDs from a control plane.

mod mesh;
mod node;
mod own;
mod role;
mod start;

use std::sync::Arc;

use tokio::runtime::Builder;

use self::start::{Early, start};
use super::{RunError, announce::announce, frame::Frame, workers::Workers};
use crate::{config::environment::Environment, lifecycle::Tasks};

/// Runs until SIGTERM or SIGINT, or until somebody asks it to end (`POST /quitquitquit`), then
/// drains.
///
/// # Errors
/// If it cannot start; once it runs, a control plane or CNI agent that is away is waited for.
pub fn run(environment: Environment) -> Result<(), RunError> {
    crate::sys::process::harden();
    if environment.post_quantum {
        crate::tls::demand_post_quantum();
    }
    let logging = announce(&environment)?;
    crate::tls::record::choose(Default::default()).map_err(anyhow::Error::msg)?;
    let data = Workers::start(environment.workers)?;
    let control =
        Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let workers = data.handles.clone();
    let early = Early { environment: Arc::new(environment), logging, workers };
    let ran = control.block_on(serve(early));
    control.shutdown_background();
    drop(data);
    Ok(ran?)
}

async fn serve(early: Early) -> anyhow::Result<()> {
    let frame = Frame::new(early.workers.clone())?;
    let ambient = start(early, &Tasks::default()).await?;
    frame.run(ambient).await.map(drop)
}
