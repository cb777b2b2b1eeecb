//! The threads that carry bytes.

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// One thread and current-thread runtime per data worker. Dropping it ends them.
pub(super) struct Workers {
    pub(super) handles: Vec<Handle>,
    stops: Vec<oneshot::Sender<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start(count: usize) -> anyhow::Result<Self> {
        let mut workers = Self { handles: Vec::new(), stops: Vec::new(), threads: Vec::new() };
        for n in 0..count {
            // One thread per worker does the cryptography of handshakes, behind the streams.
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(1)
                .thread_name(format!("handshakes-{n}"))
                .on_thread_start(crate::sys::process::yield_to_others)
                .build()?;
            workers.handles.push(runtime.handle().clone());
            let (stop, stopped) = oneshot::channel();
            workers.stops.push(stop);
            let thread = std::thread::Builder::new().name(format!("data-{n}"));
            workers.threads.push(thread.spawn(move || {
                // Either way the runtime is dropped here, with what is left on it.
                let _ = runtime.block_on(stopped);
            })?);
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stops.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
