//! Waiting for what somebody announces.

use std::future::pending;

use tokio::sync::watch;

/// Waits for the next change. Never returns once whoever announced the last one has gone: there
/// will be no other. Cancel safe.
pub async fn next_change<T>(watch: &mut watch::Receiver<T>) {
    if watch.changed().await.is_err() {
        pending().await
    }
}

/// Waits for the next change; without a `watch`, for ever. Cancel safe.
pub async fn next_change_if_any<T>(watch: Option<&mut watch::Receiver<T>>) {
    match watch {
        Some(watch) => next_change(watch).await,
        None => pending().await,
    }
}
