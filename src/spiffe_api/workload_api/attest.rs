//! Attesting callers (Workload Endpoint §5): nobody shows a secret; the kernel says who
//! connected, and `/proc` what that process was then. It is looked at once: whoever connects and
//! then becomes another program (fork, and exec in the parent) stays what it was.

use std::{
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::entitled::CallerFacts;
use crate::sys::peer::Peer;

/// Who made a connection, as it was then.
#[derive(Debug)]
pub(super) struct CallingProcess {
    peer: Peer,
    facts: Result<CallerFacts, CallerGone>,
}

/// The process that connected has ended: who speaks now is not known.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the process that connected has ended; connect again")]
pub(super) struct CallerGone;

impl CallingProcess {
    pub(super) fn of(socket: &impl AsFd) -> io::Result<Self> {
        let peer = Peer::of(socket.as_fd())?;
        let mut facts = CallerFacts { uid: peer.uid, gid: peer.gid, ..CallerFacts::default() };
        // Of a process in a PID namespace that cannot be seen from here, that is all.
        if let Some(pid) = peer.pid {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            let cgroups = std::fs::read_to_string(proc.join("cgroup")).unwrap_or_default();
            facts.pod_uid = pod_uid(&cgroups);
            facts.netns = netns(&proc);
            facts.path = executable(&proc.join("exe"));
        }
        // Last: while it runs, its ID was not used again, and the facts are its own.
        let facts = if peer.alive() { Ok(facts) } else { Err(CallerGone) };
        Ok(Self { peer, facts })
    }

    pub(super) fn uid(&self) -> u32 {
        self.peer.uid
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.peer.pid
    }

    /// Its network namespace.
    pub(super) fn netns(&self) -> Option<(u64, u64)> {
        self.facts.as_ref().ok()?.netns
    }

    /// What was known of it when it connected, as long as it runs.
    pub(super) fn facts(&self) -> Result<CallerFacts, CallerGone> {
        if self.peer.alive() { self.facts.clone() } else { Err(CallerGone) }
    }
}

fn netns(proc: &Path) -> Option<(u64, u64)> {
    let of = std::fs::metadata(proc.join("ns/net")).ok()?;
    Some((of.dev(), of.ino()))
}

/// The executable, if it is the file that is found at its path from here. A process chooses what
/// its own mounts show, but not what ours do.
fn executable(link: &Path) -> Option<PathBuf> {
    let path = std::fs::read_link(link).ok()?;
    let (runs, there) = (std::fs::metadata(link).ok()?, std::fs::metadata(&path).ok()?);
    ((runs.dev(), runs.ino()) == (there.dev(), there.ino())).then_some(path)
}

/// The UID of the Kubernetes pod that `/proc/PID/cgroup` names, for both cgroup drivers:
/// `/kubepods/burstable/pod<UID>/…` and `…-pod<UID with _>.slice/…`. Only where `kubepods` is at
/// the root of the hierarchy, which is the kubelet's, or where what is seen from our own cgroup
/// namespace begins (`/../../kubepods/…`): further down, anybody to whom a cgroup was delegated (a
/// user's session, a pod) may make one of that name. The outermost pod counts; lines that
/// disagree name none.
fn pod_uid(cgroups: &str) -> Option<String> {
    let mut uids = cgroups.lines().filter_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        let mut parts = path.split('/').skip_while(|part| matches!(*part, "" | ".."));
        let first = parts.next().filter(|part| is_kubepods(part))?;
        std::iter::once(first).chain(parts).find_map(uid_of_part)
    });
    let first = uids.next()?;
    uids.all(|other| other == first).then_some(first)
}

fn is_kubepods(part: &str) -> bool {
    matches!(part, "kubepods" | "kubepods.slice")
}

fn uid_of_part(part: &str) -> Option<String> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None => name.starts_with("kubepods").then(|| name.split_once("-pod"))??.1,
    };
    let uid = uid.replace('_', "-");
    let hex = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    // A UUID, or the 32 digits that the kubelet makes for its static pods.
    let right = hex == 32 && (uid.len() == 32 || uid.bytes().filter(|b| *b == b'-').count() == 4);
    (right && uid.len() <= 36).then_some(uid)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn pods_of_cgroups() {
        const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
        let under = UID.replace('-', "_");
        let stat = "7b1b1c6d4a0e4e1f8a3b5c6d7e8f9a0b";
        let rows = [
            ("0::/user.slice/user-0.slice".to_owned(), None),
            (format!("0::/kubepods/burstable/pod{UID}/0123abc"), Some(UID)),
            (format!("0::/kubepods/pod{UID}/0123abc"), Some(UID)),
            (format!("0::/../../kubepods/besteffort/pod{UID}"), Some(UID)),
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-1.scope"
                ),
                Some(UID),
            ),
            (format!("0::/kubepods.slice/kubepods-pod{under}.slice/crio-1.scope"), Some(UID)),
            (format!("12:cpu:/kubepods/pod{UID}/1\n11:pids:/kubepods/pod{UID}/1\n0::/"), Some(UID)),
            (format!("12:cpu:/kubepods/pod{UID}/1\n11:pids:/kubepods/pod{stat}/1"), None),
            (format!("0::/kubepods/pod{stat}/1"), Some(stat)),
            // The outermost: what a pod makes inside its own is its own.
            (format!("0::/kubepods/pod{stat}/1/kubepods/pod{UID}"), Some(stat)),
            // Not under kubepods at the root: anybody with a delegated cgroup can make that.
            (format!("0::/user.slice/pod{UID}/1"), None),
            (format!("0::/user.slice/user@7.service/kubepods/pod{UID}/1"), None),
            (format!("0::/../podx/1/kubepods/pod{UID}"), None),
            (format!("0::/../../kubepodsx/pod{UID}/1"), None),
            (format!("1:name=systemd:/user.slice/kubepods/pod{UID}\n2:cpu:/"), None),
            ("0::/kubepods/burstable/podabc/1".to_owned(), None),
            ("0::/kubepods/pod/1".to_owned(), None),
            (String::new(), None),
        ];
        for (text, expected) in rows {
            assert_eq!(pod_uid(&text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn our_own_facts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let _ours = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let facts = CallingProcess::of(&listener.accept().unwrap().0).unwrap().facts().unwrap();
        let netns = std::fs::metadata("/proc/self/ns/net").unwrap();
        assert_eq!(facts.netns, Some((netns.dev(), netns.ino())));
        assert_eq!(facts.path, std::env::current_exe().ok());
        assert_eq!(facts.uid, nix::unistd::geteuid().as_raw());
    }

    /// In a mount namespace of its own anybody has any file at any path.
    #[test]
    fn what_a_caller_mounts_for_itself_is_not_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (own, mounted) = (dir.path().join("own"), dir.path().join("mounted"));
        std::fs::copy("/bin/sleep", &own).unwrap();
        std::fs::write(&mounted, "another program").unwrap();
        for (path, setup, found) in [
            (&own, String::new(), Some(own.clone())),
            (&mounted, format!("mount --bind {own:?} {mounted:?} && "), None),
        ] {
            let mut command = std::process::Command::new("unshare");
            let run = format!("{setup}exec {path:?} 60");
            let mut child = command.args(["-rm", "sh", "-c", &run]).spawn().expect("unshare");
            let link = PathBuf::from(format!("/proc/{}/exe", child.id()));
            while std::fs::read_link(&link).is_ok_and(|now| now != *path) {
                assert!(child.try_wait().unwrap().is_none(), "{run} has ended");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            assert_eq!(executable(&link), found, "{run}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The kernel's word on who connected is of that moment, and so is the program: one that is
    /// run in its place afterwards gets nothing for being that program.
    #[test]
    fn a_caller_that_becomes_another_program_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let script = format!(
            "import os, socket, sys; s = socket.socket(1); s.connect({path:?}); \
             s.set_inheritable(True); sys.stdin.readline(); os.execv('/bin/cat', ['cat'])"
        );
        let mut command = std::process::Command::new("python3");
        let piped = std::process::Stdio::piped;
        let command = command.args(["-c", &script]).stdin(piped()).stdout(piped());
        let mut child = command.spawn().expect("python3, which the tests need");
        let caller = CallingProcess::of(&listener.accept().unwrap().0).unwrap();
        let before = caller.facts().unwrap();
        let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        to.write_all(b"\n").unwrap();
        let exe = format!("/proc/{}/exe", child.id());
        let was = before.path.clone().unwrap();
        while std::fs::read_link(&exe).is_ok_and(|now| now == was) {
            std::thread::yield_now();
        }
        assert_eq!(caller.facts(), Ok(before));
        drop(to);
        let mut said = String::new();
        from.read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert_eq!(caller.facts(), Err(CallerGone));
    }
}
