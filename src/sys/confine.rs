//! Takes from this process what it does not need: files and ports by Landlock
//! (<https://docs.kernel.org/userspace-api/landlock.html>), system calls by seccomp. For good: nothing gives it
//! back, and what the process starts has no more. Call it before any thread starts, as each
//! confines the thread that calls and those that it makes.

use std::{collections::BTreeMap, path::PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort,
    RestrictSelfError, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, path_beneath_rules,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// The newest rights that are asked for; an older kernel knows fewer.
const RIGHTS: ABI = ABI::V5;

/// How far a process confines itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sandbox {
    /// Files and ports.
    pub landlock: bool,
    /// System calls.
    pub seccomp: bool,
    /// Not to start with less than all that is asked for.
    pub required: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self { landlock: true, seccomp: true, required: false }
    }
}

/// What stays allowed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Needs {
    /// Read, with all below.
    pub read: Vec<PathBuf>,
    /// Read and changed, with all below.
    pub write: Vec<PathBuf>,
    /// Programs and what they load.
    pub execute: Vec<PathBuf>,
    /// TCP ports to listen at; `None` are all.
    pub listen: Option<Vec<u16>>,
    /// TCP ports to connect to; `None` are all.
    pub connect: Option<Vec<u16>>,
    /// Whether threads, and what they start, enter namespaces that are there.
    pub enter_namespaces: bool,
    /// Whether entries of the kernel's maps are read and changed (bpf(2)); what else there is of
    /// them is made before.
    pub map_entries: bool,
    /// Whether any file may be read.
    pub read_all: bool,
    /// Whether files are none of ours to restrict.
    pub any_file: bool,
}

/// How far the kernel went along.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extent {
    /// All rules hold.
    Full,
    /// The kernel is too old for some.
    Partial,
    /// It has no Landlock, or it is off.
    None,
    /// As far as those that started this process, and no further: there are as many layers of
    /// rules as the kernel takes.
    Before,
}

/// Confines files and ports.
///
/// # Errors
/// What the kernel refused.
pub fn landlock(needs: &Needs) -> Result<Extent, String> {
    let wrong = |e: RulesetError| e.to_string();
    let mut rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let mut handled = BitFlags::<AccessFs>::empty();
    if !needs.any_file {
        handled = AccessFs::from_all(RIGHTS);
        if needs.read_all {
            handled &= !AccessFs::from_read(RIGHTS) | AccessFs::Execute;
        }
        rules = rules.handle_access(handled).map_err(wrong)?;
    }
    if needs.listen.is_some() {
        rules = rules.handle_access(AccessNet::BindTcp).map_err(wrong)?;
    }
    if needs.connect.is_some() {
        rules = rules.handle_access(AccessNet::ConnectTcp).map_err(wrong)?;
    }
    let mut rules = rules.create().map_err(wrong)?;
    if !needs.any_file {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let run = read | AccessFs::Execute;
        let change = AccessFs::from_all(RIGHTS) & !AccessFs::Execute;
        for (paths, access) in [(&needs.read, read), (&needs.execute, run), (&needs.write, change)]
        {
            let access = access & handled;
            if !access.is_empty() {
                rules = rules.add_rules(path_beneath_rules(paths, access)).map_err(wrong)?;
            }
        }
    }
    for (ports, access) in
        [(&needs.listen, AccessNet::BindTcp), (&needs.connect, AccessNet::ConnectTcp)]
    {
        for port in ports.iter().flatten() {
            rules = rules.add_rule(NetPort::new(*port, access)).map_err(wrong)?;
        }
    }
    let status = match rules.restrict_self() {
        Ok(status) => status,
        Err(RulesetError::RestrictSelf(RestrictSelfError::RestrictSelfCall { source, .. }))
            if source.raw_os_error() == Some(libc::E2BIG) =>
        {
            return Ok(Extent::Before);
        }
        Err(e) => return Err(wrong(e)),
    };
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Extent::Full,
        RulesetStatus::PartiallyEnforced => Extent::Partial,
        RulesetStatus::NotEnforced => Extent::None,
    })
}

/// Refuses (EPERM) the system calls that no proxy makes: other kinds of sockets, namespaces,
/// tracing, mounts, modules, clocks, keys, io_uring and, unless some are needed, programs.
///
/// # Errors
/// What the kernel refused.
pub fn seccomp(needs: &Needs) -> Result<(), String> {
    let not_here = libc::ENOSYS.unsigned_abs();
    let refused = libc::EPERM.unsigned_abs();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        NEVER.iter().map(|call| (*call, Vec::new())).collect();
    if needs.enter_namespaces {
        rules.remove(&libc::SYS_setns);
    }
    if needs.map_entries {
        // BPF_MAP_LOOKUP_ELEM, _UPDATE_ELEM and _DELETE_ELEM are 1 to 3.
        let others = [(SeccompCmpOp::Eq, 0), (SeccompCmpOp::Gt, 3)];
        let others = others.map(|(is, command)| rule(&[(0, is, command)]));
        rules.insert(libc::SYS_bpf, others.into_iter().collect::<Result<_, _>>()?);
    }
    if needs.execute.is_empty() {
        rules.extend([(libc::SYS_execve, Vec::new()), (libc::SYS_execveat, Vec::new())]);
    }
    rules.insert(libc::SYS_socket, sockets()?);
    let spaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let spaces = spaces.map(|flag| u64::from(flag.unsigned_abs()));
    let new = spaces.map(|flag| rule(&[(0, SeccompCmpOp::MaskedEq(flag), flag)]));
    rules.insert(libc::SYS_clone, new.into_iter().collect::<Result<_, _>>()?);
    apply(rules, refused)?;
    #[cfg(target_arch = "x86_64")]
    seccompiler::apply_filter(&other_numbers(refused)).map_err(|e| e.to_string())?;
    // Its flags are in memory, where a filter cannot look; the C library then takes clone.
    apply([(libc::SYS_clone3, Vec::new())].into(), not_here)
}

/// Other families than those of TCP, of UDP for the resolver, of Unix sockets, and routing netlink
/// for the resolver; and raw ones.
fn sockets() -> Result<Vec<SeccompRule>, String> {
    let family = |family: i32| (0, SeccompCmpOp::Ne, u64::from(family.unsigned_abs()));
    let netlink = family(libc::AF_NETLINK);
    let known =
        [family(libc::AF_UNIX), family(libc::AF_INET), family(libc::AF_INET6), netlink.clone()];
    let raw = (1, SeccompCmpOp::MaskedEq(0xF), u64::from(libc::SOCK_RAW.unsigned_abs()));
    Ok(vec![rule(&known)?, rule(&[netlink, raw])?])
}

fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, String> {
    let made = conditions.iter().map(|(arg, op, value)| {
        SeccompCondition::new(*arg, SeccompCmpArgLen::Dword, op.clone(), *value)
    });
    let made = made.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    SeccompRule::new(made).map_err(|e| e.to_string())
}

fn apply(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: u32) -> Result<(), String> {
    let here = std::env::consts::ARCH.try_into().map_err(|_| "this processor is not known")?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), here);
    let program: Result<BpfProgram, _> = filter.and_then(TryInto::try_into);
    let program = program.map_err(|e| e.to_string())?;
    seccompiler::apply_filter(&program).map_err(|e| e.to_string())
}

/// Refuses the numbers of x32, which to a filter is the same processor: the list has none of them,
/// and a kernel that knows them takes each as another way to the same call.
#[cfg(target_arch = "x86_64")]
fn other_numbers(errno: u32) -> [seccompiler::sock_filter; 4] {
    let op = |code: u32, jf, k| seccompiler::sock_filter { code: code as u16, jt: 0, jf, k };
    [
        // The number is the first word of what a filter sees.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0x4000_0000),
        op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno),
        op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

const NEVER: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_perf_event_open,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    libc::SYS_vhangup,
    libc::SYS_syslog,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_mbind,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    libc::SYS_mknodat,
];

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::ErrorKind::PermissionDenied,
        net::{TcpListener, TcpStream},
        process::Command,
        thread,
    };

    use nix::{
        errno::Errno,
        sched::{CloneFlags, unshare},
        sys::socket::{AddressFamily, SockFlag, SockType, socket},
    };

    use super::*;

    /// A thread confines itself and those that it starts, not its process.
    fn confined(work: impl FnOnce() + Send + 'static) {
        thread::spawn(work).join().unwrap();
    }

    fn executing() -> Needs {
        Needs { execute: vec!["/".into()], ..Needs::default() }
    }

    #[test]
    fn files_and_ports_that_are_not_named_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (named, other) = (folder.path().join("named"), folder.path().join("other"));
        for folder in [&named, &other] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("file"), "text").unwrap();
        }
        let (one, two) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (one, two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        confined(move || {
            let needs = Needs {
                read: vec![named.clone()],
                listen: Some(vec![]),
                connect: Some(vec![one.port()]),
                ..Needs::default()
            };
            assert_ne!(landlock(&needs).unwrap(), Extent::None, "this kernel has no Landlock");
            assert_eq!(fs::read(named.join("file")).unwrap(), b"text");
            let refused = [
                fs::read(other.join("file")).map(drop),
                fs::write(named.join("file"), "new"),
                fs::remove_file(named.join("file")),
                TcpStream::connect(two).map(drop),
                TcpListener::bind("127.0.0.1:0").map(drop),
            ];
            let refused = refused.map(|done| done.unwrap_err().kind());
            assert_eq!(refused, [PermissionDenied; 5]);
            // The listener may be gone, but it was asked.
            let asked = TcpStream::connect(one).err().map(|e| e.kind());
            assert_ne!(asked, Some(PermissionDenied));
        });
    }

    #[test]
    fn files_that_may_all_be_read_are_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "text").unwrap();
        confined(move || {
            let needs = Needs { read_all: true, ..Needs::default() };
            landlock(&needs).unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"text");
            assert_eq!(fs::write(&file, "new").unwrap_err().kind(), PermissionDenied);
            assert_eq!(Command::new("/bin/true").status().unwrap_err().kind(), PermissionDenied);
            assert!(TcpListener::bind("127.0.0.1:0").is_ok());
        });
    }

    #[test]
    fn layers_add_up_until_the_kernel_takes_no_more() {
        confined(|| {
            let needs = Needs { read_all: true, ..Needs::default() };
            let layers = (0..100).take_while(|_| landlock(&needs) != Ok(Extent::Before)).count();
            assert!((1..100).contains(&layers), "{layers}");
        });
    }

    #[test]
    fn system_calls_of_no_proxy_are_refused() {
        confined(|| {
            seccomp(&Needs::default()).unwrap();
            let packet = |family, kind| socket(family, kind, SockFlag::empty(), None).map(drop);
            assert_eq!(packet(AddressFamily::Packet, SockType::Datagram), Err(Errno::EPERM));
            assert_eq!(packet(AddressFamily::Inet, SockType::Raw), Err(Errno::EPERM));
            assert_eq!(packet(AddressFamily::Inet6, SockType::Stream), Ok(()));
            assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
            assert_eq!(Command::new("/bin/true").status().unwrap_err().kind(), PermissionDenied);
            // Threads and names go on.
            thread::spawn(|| TcpListener::bind("localhost:0").unwrap()).join().unwrap();
        });
        confined(|| {
            seccomp(&executing()).unwrap();
            assert!(Command::new("/bin/true").status().unwrap().success());
        });
    }

    #[test]
    fn namespaces_and_maps_that_are_there_stay_open_to_who_needs_them() {
        use std::os::fd::AsFd;
        let no_namespace = || fs::File::open("/dev/null").unwrap();
        let enter = move || nix::sched::setns(no_namespace().as_fd(), CloneFlags::CLONE_NEWNET);
        // SAFETY: bpf(2) with no attributes reads and writes no memory.
        let bpf =
            |command: i64| Errno::result(unsafe { libc::syscall(libc::SYS_bpf, command, 0, 0) });
        confined(move || {
            seccomp(&Needs::default()).unwrap();
            assert_eq!((enter(), bpf(1)), (Err(Errno::EPERM), Err(Errno::EPERM)));
        });
        confined(move || {
            let needs = Needs { enter_namespaces: true, map_entries: true, ..Needs::default() };
            seccomp(&needs).unwrap();
            assert_eq!(enter(), Err(Errno::EINVAL));
            assert_eq!(unshare(CloneFlags::CLONE_NEWNET), Err(Errno::EPERM));
            // Programs are loaded (5) and attached (8, 28) by none, nor maps made (0).
            assert_eq!([0, 5, 8, 28].map(bpf), [Err(Errno::EPERM); 4]);
            if nix::unistd::geteuid().is_root() {
                assert_ne!(bpf(1), Err(Errno::EPERM));
            }
        });
    }

    /// `unshare` is not the only way to a namespace of one's own.
    #[test]
    fn no_namespace_is_made_by_clone_either() {
        fn clone(flags: i32) -> Result<(), Errno> {
            let flags = i64::from(flags | libc::SIGCHLD);
            // SAFETY: without CLONE_VM the child has its own copy of all memory, and goes on from
            // here; it does nothing but end.
            let child =
                Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
            if child == 0 {
                // SAFETY: ends the child at once, and runs nothing of the parent's.
                unsafe { libc::_exit(0) }
            }
            let child = nix::unistd::Pid::from_raw(i32::try_from(child).unwrap());
            nix::sys::wait::waitpid(child, None).map(drop)
        }
        confined(|| {
            seccomp(&executing()).unwrap();
            for space in [
                libc::CLONE_NEWUSER,
                libc::CLONE_NEWNS,
                libc::CLONE_NEWNET,
                libc::CLONE_NEWPID,
                libc::CLONE_NEWIPC,
                libc::CLONE_NEWUTS,
                libc::CLONE_NEWCGROUP,
            ] {
                assert_eq!(clone(space), Err(Errno::EPERM), "{space:#x}");
                assert_eq!(clone(space | libc::CLONE_NEWUSER), Err(Errno::EPERM), "{space:#x}");
            }
            assert_eq!(clone(0), Ok(()), "a process without one is made");
            // SAFETY: there is nothing at the address, which the kernel sees if it looks.
            let newer = unsafe { libc::syscall(libc::SYS_clone3, 0, 0) };
            assert_eq!(Errno::result(newer), Err(Errno::ENOSYS));
        });
    }

    /// Without the filter the kernel runs them, or says that it does not know them.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn numbers_of_x32_are_refused() {
        fn getpid(flag: i64) -> Result<i64, Errno> {
            // SAFETY: getpid(2) takes nothing.
            Errno::result(unsafe { libc::syscall(libc::SYS_getpid | flag) })
        }
        confined(|| {
            assert_ne!(getpid(0x4000_0000), Err(Errno::EPERM));
            seccomp(&executing()).unwrap();
            assert_eq!(getpid(0x4000_0000), Err(Errno::EPERM));
            assert_eq!(getpid(0), Ok(std::process::id().into()));
        });
    }
}
