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
    let bpf = |command: i64| Errno::result(unsafe { libc::syscall(libc::SYS_bpf, command, 0, 0) });
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
        let child = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
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
