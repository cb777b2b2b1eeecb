//! Namespaces of our own for a demonstration: what is made inside vanishes with the process.

use std::{fs, io};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{getgid, getuid},
};

/// Moves the process into fresh network and mount namespaces with an empty `/run`, becoming
/// root in a user namespace first where it is not root. Call before any thread starts.
///
/// # Errors
/// Says which right is missing.
pub fn enter() -> io::Result<()> {
    let (uid, gid) = (getuid(), getgid());
    let explain = |what: &str, e: nix::Error| {
        io::Error::new(
            io::Error::from(e).kind(),
            format!(
                "cannot create the {what}: {e}; run as root, or allow unprivileged user namespaces"
            ),
        )
    };
    if !uid.is_root() {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| explain("user namespace", e))?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    unshare(own).map_err(|e| explain("network namespace", e))?;
    let none: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).map_err(|e| explain("private mounts", e))?;
    let tmpfs = Some("tmpfs");
    mount(tmpfs, "/run", tmpfs, MsFlags::empty(), none).map_err(|e| explain("/run", e))
}
