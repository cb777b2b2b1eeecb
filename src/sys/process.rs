//! What the kernel knows of this process.

/// Resources in use now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system CPU time.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: i64,
    /// Threads.
    pub threads: i64,
    /// Open descriptors.
    pub open_fds: i64,
    /// The limit of open descriptors.
    pub max_fds: i64,
}

/// Reads it; what cannot be read is zero.
#[must_use]
pub fn usage() -> Usage {
    use nix::sys::{
        resource::{Resource, UsageWho, getrlimit, getrusage},
        time::TimeVal,
    };
    let seconds = |t: TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> i64 {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Usage {
        cpu_seconds: getrusage(UsageWho::RUSAGE_SELF)
            .map_or(0.0, |u| seconds(u.user_time()) + seconds(u.system_time())),
        resident_bytes: field("VmRSS:") * 1024,
        threads: field("Threads:"),
        open_fds: std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as i64),
        max_fds: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft as i64),
    }
}

/// Rights of Linux, by their numbers (capabilities(7)).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Right {
    /// `CAP_NET_ADMIN`
    NetAdmin = 12,
    /// `CAP_SYS_ADMIN`
    SysAdmin = 21,
}

/// Whether this process may use it. Where the kernel does not say, it is not known to lack it.
#[must_use]
pub fn has_right(right: Right) -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_none_or(|bits| bits >> (right as u64) & 1 == 1)
}

/// How many descriptors the kernel's table has room for from the beginning.
const TABLE: u64 = 8192;

/// Keeps private keys out of core dumps, allows as many descriptors as the hard limit does, and
/// makes room for many. Best effort: no failure keeps the proxy from working.
pub fn harden() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let _ = nix::sys::prctl::set_dumpable(false);
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        grow_table(hard);
    }
}

/// Where several threads share it, the kernel's table of descriptors grows by doubling, and
/// whoever needs it waits for an RCU grace period each time (11–26 ms at 256, 512, 1,024 and
/// 2,048): a burst of connections would hold up a worker and its streams. Some 64 KiB of the
/// kernel's avoid that.
fn grow_table(limit: u64) {
    use nix::fcntl::{FcntlArg, fcntl};
    let last = i32::try_from(TABLE.min(limit)).unwrap_or(i32::MAX) - 1;
    if let Ok(high) = fcntl(std::io::stderr(), FcntlArg::F_DUPFD_CLOEXEC(last)) {
        let _ = nix::unistd::close(high);
    }
}

/// Gives memory that was freed back to the kernel: glibc keeps it, in case it is wanted again.
/// Nothing where another allocator is in use that does this by itself.
pub fn release_freed_memory() {
    // SAFETY: malloc_trim(3) takes no pointers, may be called from any thread at any time, and
    // touches only memory that nobody owns.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes the kernel end the child of `command` when the calling thread ends, however it does.
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let set = || Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?);
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
    unsafe { command.pre_exec(set) };
}

/// Keeps SIGTERM and SIGINT from the child of `command`: a service manager and a terminal send them to
/// all processes of a service, and what one does on its way out must be done to the end. Whoever
/// starts it bounds it in time. It ends with the calling thread, which must wait for it: nothing is
/// done any more once the process that wanted it is gone.
pub fn ignore_stop_signals(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;

    use nix::sys::signal::{SigHandler, Signal, signal};
    let set = || {
        for stop in [Signal::SIGTERM, Signal::SIGINT] {
            // SAFETY: no handler of ours is set, so none runs code; signal(2) is async-signal-safe.
            unsafe { signal(stop, SigHandler::SigIgn) }?;
        }
        Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
    };
    // SAFETY: between fork and exec only signal(2) and prctl(2) are called, which are
    // async-signal-safe.
    unsafe { command.pre_exec(set) };
}

/// Lets the kernel prefer other threads to the calling one (nice 10), where it may.
#[allow(unsafe_code, reason = "setpriority of one thread; no crate of ours wraps it")]
pub fn yield_to_others() {
    // SAFETY: setpriority(2) takes no pointers; on Linux, 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{Resource, getrlimit};

    #[test]
    fn the_table_of_descriptors_has_room_for_many() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        super::grow_table(soft);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let room = status.lines().find_map(|l| l.strip_prefix("FDSize:")).unwrap();
        assert!(room.trim().parse::<u64>().unwrap() >= soft.min(super::TABLE));
    }
}
