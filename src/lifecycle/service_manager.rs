//! What systemd is told (sd_notify(3)). Nothing happens where nobody listens.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use sd_notify::NotifyState as State;

/// The service manager, if there is one. Calls come from one task, so their order is kept.
#[derive(Debug, Default)]
pub struct ServiceManager {
    failed: AtomicBool,
}

impl ServiceManager {
    /// Whether anybody hears it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// We serve, again or for the first time.
    pub fn ready(&self, status: &str) {
        self.tell(&[State::Ready, State::Status(&one_line(status))]);
    }

    /// We read our files again; [`ServiceManager::ready`] must follow.
    pub fn reloading(&self) {
        match State::monotonic_usec_now() {
            Ok(now) => self.tell(&[State::Reloading, now, State::Status("reloading")]),
            Err(error) => tracing::warn!(%error, "the monotonic clock cannot be read"),
        }
    }

    /// We take no more work, and may need so long.
    pub fn stopping(&self, status: &str, need: Duration) {
        let need = u32::try_from(need.as_micros()).unwrap_or(u32::MAX);
        let status = one_line(status);
        self.tell(&[State::Stopping, State::ExtendTimeoutUsec(need), State::Status(&status)]);
    }

    /// What `systemctl status` shows.
    pub fn status(&self, status: &str) {
        self.tell(&[State::Status(&one_line(status))]);
    }

    /// Another process is the service now.
    pub fn succeeded_by(&self, pid: u32) {
        self.tell(&[State::MainPid(pid)]);
    }

    /// We work: due at least each [`ServiceManager::watchdog`].
    pub fn alive(&self) {
        self.tell(&[State::Watchdog]);
    }

    /// How long we may be silent before we are killed; `None` if nobody watches.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
    }

    fn tell(&self, state: &[State<'_>]) {
        if let Err(error) = sd_notify::notify(state)
            && !self.failed.swap(true, Relaxed)
        {
            tracing::warn!(%error, "cannot notify the service manager (NOTIFY_SOCKET)");
        }
    }
}

/// The longest status that is told, characters.
const LONGEST: usize = 1000;

/// A second line would be another thing to tell.
fn one_line(status: &str) -> String {
    let line = |c: char| if c.is_control() { ' ' } else { c };
    status.chars().take(LONGEST).map(line).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_status_is_one_line_that_fits_a_datagram() {
        let status = format!("waits for a\nMAINPID=1\r{}", "é".repeat(5000));
        let told = super::one_line(&status);
        assert!(told.starts_with("waits for a MAINPID=1 é"), "{told}");
        assert_eq!(told.chars().count(), super::LONGEST);
    }
}
