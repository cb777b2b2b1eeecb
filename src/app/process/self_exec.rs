//! SIGUSR2: the program as it is on disk now takes over from the one that runs.

use std::{ffi::OsString, path::PathBuf};

use tokio::process::Command;

use crate::lifecycle::Tasks;

/// How this process was started.
pub(in crate::app) struct SelfExec {
    program: Option<PathBuf>,
    args: Vec<OsString>,
}

impl SelfExec {
    /// To be asked at the start: later the program may have been replaced.
    pub(in crate::app) fn now() -> Self {
        Self { program: std::env::current_exe().ok(), args: std::env::args_os().skip(1).collect() }
    }

    /// Starts it once more, with the same arguments; it finds us at `--takeover`.
    pub(in crate::app) fn start_again(&self, takeover: bool, tasks: &Tasks) {
        let Some(program) = self.program.as_ref().filter(|_| takeover) else {
            return tracing::warn!("SIGUSR2 ignored: a hot restart needs --takeover");
        };
        // It answers to the watchdog in our place once it is the main process.
        let mut command = Command::new(program);
        match command.args(&self.args).env_remove("WATCHDOG_PID").spawn() {
            Err(error) => tracing::error!(
                program = %program.display(), %error,
                "cannot start the new process; this one continues"
            ),
            Ok(mut child) => {
                tracing::info!(pid = child.id(), "starting a new process");
                tasks.spawn(async move {
                    if let Ok(ended) = child.wait().await {
                        tracing::error!(%ended, "the new process exited; this one continues");
                    }
                });
            }
        }
    }
}
