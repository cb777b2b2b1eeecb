//! Network namespaces: open one, run a closure inside it, come back.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sched::{CloneFlags, setns},
    sys::socket::SockaddrStorage,
};

/// An open network namespace; it lives at least as long as this.
#[derive(Debug)]
pub struct Netns {
    file: File,
    key: (u64, u64),
}

/// Whether they are one.
impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Netns {}

thread_local! {
    /// The namespace this thread belongs to and returns to.
    static HOME: io::Result<Netns> = Netns::current();
}

impl Netns {
    /// Opens the namespace behind a file such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// Names the path and what it should be.
    pub fn open(path: &Path) -> io::Result<Self> {
        let explain = |e: io::Error| {
            let hint = hint(e.kind(), path);
            let why = format!("network namespace {}: {e} ({hint})", path.display());
            io::Error::new(e.kind(), why)
        };
        let file = File::open(path).map_err(explain)?;
        let of = file.metadata().map_err(explain)?;
        Ok(Self { file, key: (of.dev(), of.ino()) })
    }

    /// The namespace that another process has opened and given to this one.
    ///
    /// # Errors
    /// If it is something else.
    pub fn given(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: NS_GET_NSTYPE (ioctl_nsfs(2)) takes no argument, and the descriptor is open.
        let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            let why = "the descriptor is not one of a network namespace";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let file = File::from(fd);
        let of = file.metadata()?;
        Ok(Self { file, key: (of.dev(), of.ino()) })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// If `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Which namespace stands behind a path now, as [`Netns::key`]. Takes no descriptor.
    ///
    /// # Errors
    /// As stat(2): `NotFound` says that there is none, any other error says nothing about it.
    pub fn key_of(path: &Path) -> io::Result<(u64, u64)> {
        std::fs::metadata(path).map(|of| (of.dev(), of.ino()))
    }

    /// Device and inode: equal exactly for the same namespace.
    #[must_use]
    pub fn key(&self) -> (u64, u64) {
        self.key
    }

    /// Whether one of its interfaces is set up. One that is not there is not.
    ///
    /// # Errors
    /// As [`Netns::run`], and if the interfaces cannot be listed.
    pub fn is_up(&self, interface: &str) -> io::Result<bool> {
        let mut all = self.run(getifaddrs)??;
        Ok(all.any(|i| i.interface_name == interface && i.flags.contains(InterfaceFlags::IFF_UP)))
    }

    /// The addresses of its interfaces.
    ///
    /// # Errors
    /// As [`Netns::run`], and if the interfaces cannot be listed.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let all = self.run(getifaddrs)??;
        let of = |address: SockaddrStorage| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()).to_canonical()))
        };
        Ok(all.filter_map(|interface| interface.address.and_then(of)).collect())
    }

    /// Runs `work` on this thread inside the namespace. `work` must not block for long, as
    /// it holds up the thread, and must not keep the thread's namespace for later.
    ///
    /// # Errors
    /// If the namespace cannot be entered (`CAP_SYS_ADMIN`); `work` did not run then.
    ///
    /// # Aborts
    /// The process, if the way back fails: a worker left in one pod's namespace would open
    /// the next pod's sockets there.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        HOME.with(|home| {
            let home = home.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()))?;
            if home.key == self.key {
                return Ok(work());
            }
            enter(self).map_err(|e| {
                let why = match e.kind() {
                    io::ErrorKind::InvalidInput => "it is not a network namespace",
                    _ => "needs CAP_SYS_ADMIN",
                };
                io::Error::new(e.kind(), format!("setns: {e} ({why})"))
            })?;
            let _back = WayBack(home);
            Ok(work())
        })
    }
}

/// What to do where a namespace cannot be opened.
fn hint(kind: io::ErrorKind, path: &Path) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied if path.starts_with("/proc") => {
            "needs root, or CAP_SYS_PTRACE and CAP_SYS_ADMIN"
        }
        io::ErrorKind::PermissionDenied => {
            "needs root, or CAP_SYS_ADMIN and a path that this user may read"
        }
        _ => "expected a name that `ip netns list` shows, or /proc/PID/ns/net of a live process",
    }
}

fn enter(netns: &Netns) -> io::Result<()> {
    Ok(setns(netns.file.as_fd(), CloneFlags::CLONE_NEWNET)?)
}

/// Returns home on drop, also when the closure panics.
struct WayBack<'a>(&'a Netns);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if enter(self.0).is_err() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_a_network_namespace_or_refused() {
        let open = |path: &str| OwnedFd::from(File::open(path).unwrap());
        let here = Netns::given(open("/proc/thread-self/ns/net")).unwrap();
        assert_eq!(here.key(), Netns::current().unwrap().key());
        for other in ["/proc/thread-self/ns/mnt", "/dev/null", "/proc/self/exe"] {
            let error = Netns::given(open(other)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{other}: {error}");
        }
    }

    #[test]
    fn what_to_do_is_said_where_a_namespace_may_not_be_opened_or_is_not_there() {
        let denied = |path: &str| hint(io::ErrorKind::PermissionDenied, Path::new(path));
        assert!(denied("/run/netns/web").contains("CAP_SYS_ADMIN and a path"));
        assert!(denied("/proc/7/ns/net").contains("CAP_SYS_PTRACE"));
        let error = Netns::open(Path::new("/run/netns/nobody-has-this")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("`ip netns list`"), "{error}");
    }
}
