//! Work that blocks for as long as somebody else pleases: the resolver, a policy.

use std::sync::LazyLock;

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinError,
};
use tokio_util::task::AbortOnDropHandle;

/// How much of it at once; what is more waits for its turn.
const MOST: usize = 64;

/// Data workers have one blocking thread each, and handshakes wait for it: nothing that takes
/// long may stand there. These threads are the process's, begun when needed.
static THREADS: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread()
        .max_blocking_threads(MOST)
        .thread_name("blocking")
        .on_thread_start(crate::sys::process::yield_to_others)
        .build()
        .expect("a runtime without drivers needs nothing")
});

/// Runs `work` on a thread where it keeps nobody else waiting.
///
/// # Errors
/// If it panicked.
///
/// # Cancel safety
/// Dropping the future forgets work that has not begun; what has begun comes to its end.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    AbortOnDropHandle::new(THREADS.spawn_blocking(work)).await
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[test]
    fn what_takes_long_does_not_stand_before_a_workers_handshakes() {
        let worker =
            Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
        let (go_on, wait) = mpsc::channel::<()>();
        worker.block_on(async {
            let long = blocking(move || wait.recv().is_ok());
            let handshake = async {
                let done = tokio::task::spawn_blocking(|| true);
                let done = tokio::time::timeout(Duration::from_secs(10), done).await;
                go_on.send(()).unwrap();
                done.unwrap().unwrap()
            };
            let (long, handshake) = tokio::join!(long, handshake);
            assert!(long.unwrap() && handshake);
        });
    }
}
