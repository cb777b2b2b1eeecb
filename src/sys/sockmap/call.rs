//! bpf(2), with safe signatures.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// `bpf_attr`, as far as the calls here use it: the largest is 128 bytes.
type Attr = [u64; 16];

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const LINK_CREATE: libc::c_long = 28;

fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: bpf(2) reads `attr`, which is valid for its whole length; the pointers in it come
    // from slices that the callers below borrow until this returns, as long as they say.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<Attr>())
    };
    checked(done)
}

fn descriptor(number: libc::c_long) -> io::Result<OwnedFd> {
    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for this caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn words(low: u32, high: u32) -> u64 {
    u64::from(low) | (u64::from(high) << 32)
}

fn fd(of: &impl AsFd) -> u32 {
    u32::try_from(of.as_fd().as_raw_fd()).unwrap_or(u32::MAX)
}

/// Which map.
#[derive(Clone, Copy)]
pub(super) enum BpfMapKind {
    Hash = 1,
    /// What was not used for long makes room.
    RecentHash = 9,
    SockHash = 18,
}

/// Opens a map with keys of `K` and values of `V` bytes.
pub(super) fn create_map<const K: usize, const V: usize>(
    kind: BpfMapKind,
    entries: u32,
) -> io::Result<OwnedFd> {
    let mut attr = Attr::default();
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    attr[0] = words(kind as u32, size(K));
    attr[1] = words(size(V), entries);
    /// Entries take memory only once they are there (BPF_F_NO_PREALLOC).
    const NO_PREALLOC: u32 = 1;
    attr[2] = match kind {
        BpfMapKind::Hash => words(NO_PREALLOC, 0),
        BpfMapKind::RecentHash | BpfMapKind::SockHash => 0,
    };
    descriptor(bpf(MAP_CREATE, &mut attr)?)
}

/// Enters a value, in place of what was there.
pub(super) fn update<const K: usize, const V: usize>(
    map: &OwnedFd,
    key: &[u8; K],
    value: &[u8; V],
) -> io::Result<()> {
    let mut attr = Attr::default();
    attr[0] = words(fd(map), 0);
    attr[1] = key.as_ptr().addr() as u64;
    attr[2] = value.as_ptr().addr() as u64;
    bpf(MAP_UPDATE, &mut attr).map(drop)
}

/// What a map has for a key, in 8 bytes.
pub(super) fn lookup<const K: usize>(map: &OwnedFd, key: &[u8; K]) -> Option<[u8; 8]> {
    let (mut attr, mut value) = (Attr::default(), [0; 8]);
    attr[0] = words(fd(map), 0);
    attr[1] = key.as_ptr().addr() as u64;
    attr[2] = value.as_mut_ptr().addr() as u64;
    bpf(MAP_LOOKUP, &mut attr).ok().map(|_| value)
}

/// Removes a value, if it is there.
pub(super) fn delete<const K: usize>(map: &OwnedFd, key: &[u8; K]) {
    let mut attr = Attr::default();
    attr[0] = words(fd(map), 0);
    attr[1] = key.as_ptr().addr() as u64;
    let _ = bpf(MAP_DELETE, &mut attr);
}

/// What a program is for.
#[derive(Clone, Copy)]
pub(super) enum Program {
    SockOps = 13,
    SkMsg = 16,
}

/// Loads a program.
///
/// # Errors
/// What the verifier said, in full.
pub(super) fn load(kind: Program, code: &[[u8; 8]]) -> io::Result<OwnedFd> {
    // The kernel shows the fields of its structs to programs under such a licence only; the two
    // programs here, and nothing else of this crate, are offered under it too.
    let licence = c"Dual MIT/GPL";
    let mut log = vec![0_u8; 256 * 1024];
    let mut attr = Attr::default();
    attr[0] = words(kind as u32, u32::try_from(code.len()).unwrap_or(u32::MAX));
    attr[1] = code.as_ptr().addr() as u64;
    attr[2] = licence.as_ptr().addr() as u64;
    attr[3] = words(1, u32::try_from(log.len()).unwrap_or(0));
    attr[4] = log.as_mut_ptr().addr() as u64;
    bpf(PROG_LOAD, &mut attr).and_then(descriptor).map_err(|e| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(0);
        let said = String::from_utf8_lossy(&log[..end]).trim().to_owned();
        io::Error::new(e.kind(), format!("{e}: {said}"))
    })
}

/// Has `program` see every message of the sockets in `map`.
pub(super) fn attach_to_map(program: &OwnedFd, map: &OwnedFd) -> io::Result<()> {
    const SK_MSG_VERDICT: u32 = 7;
    let mut attr = Attr::default();
    attr[0] = words(fd(map), fd(program));
    attr[1] = words(SK_MSG_VERDICT, 0);
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

/// Has `program` see the sockets of a cgroup, until what is returned is dropped.
pub(super) fn attach_to_cgroup(program: &OwnedFd, cgroup: &impl AsFd) -> io::Result<OwnedFd> {
    const CGROUP_SOCK_OPS: u32 = 3;
    let mut attr = Attr::default();
    attr[0] = words(fd(program), fd(cgroup));
    attr[1] = words(CGROUP_SOCK_OPS, 0);
    descriptor(bpf(LINK_CREATE, &mut attr)?)
}

/// The root of the cgroup v2 hierarchy, as a mount of its own that no path leads to: it is the
/// same whether or not `/sys/fs/cgroup` can be seen from here.
pub(super) fn root_cgroup() -> io::Result<OwnedFd> {
    const CREATE: libc::c_long = 6; // FSCONFIG_CMD_CREATE
    const NO_ARGUMENT: *const libc::c_char = std::ptr::null();
    // SAFETY: fsopen(2) reads a string that ends in NUL, and opens a descriptor.
    let context = checked(unsafe { libc::syscall(libc::SYS_fsopen, c"cgroup2".as_ptr(), 1) })?;
    let context = descriptor(context)?;
    let raw = context.as_raw_fd();
    // SAFETY: FSCONFIG_CMD_CREATE takes no key and no value; the descriptor is open.
    checked(unsafe {
        libc::syscall(libc::SYS_fsconfig, raw, CREATE, NO_ARGUMENT, NO_ARGUMENT, 0)
    })?;
    // SAFETY: fsmount(2) takes numbers only, and opens a descriptor.
    let mount = checked(unsafe { libc::syscall(libc::SYS_fsmount, raw, 1, 0) })?;
    let mount = descriptor(mount)?;
    let flags = nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
    Ok(nix::fcntl::openat(&mount, ".", flags, nix::sys::stat::Mode::empty())?)
}

fn checked(done: libc::c_long) -> io::Result<libc::c_long> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}
