//! System calls, by seccomp.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::Needs;

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
