//! Connections that wait at a listening socket when it is closed: the kernel resets them, unless a
//! program of the port's group (`SO_REUSEPORT`) allows it to give them to another socket of the group
//! (`BPF_SK_REUSEPORT_SELECT_OR_MIGRATE`, Linux 5.14).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::{Once, OnceLock},
};

/// The program, once it was asked for; an error where the kernel does not let this process load it.
static PROGRAM: OnceLock<io::Result<OwnedFd>> = OnceLock::new();
/// Said once, by whoever needs the program: it may be loaded before there is a log.
static TOLD: Once = Once::new();

/// `r0 = SK_PASS; exit`: the kernel chooses by its hash, as without a program.
const PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// Loads the program that [`keep_queue`] needs, once: before a process confines itself.
pub fn prepare() -> Result<&'static OwnedFd, &'static io::Error> {
    PROGRAM.get_or_init(load).as_ref()
}

/// Has the kernel give connections that wait at `listener`, when it is closed, to another socket
/// that listens at the same port. Best effort: it takes CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN.
pub fn keep_queue(listener: &impl AsFd) {
    let kept = match prepare() {
        Ok(program) => attach(listener, program),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    if let Err(error) = kept {
        TOLD.call_once(|| {
            tracing::debug!(
                %error,
                "connections that wait to be accepted when adit ends cannot be left to a process \
                 beside it"
            );
        });
    }
}

fn attach(listener: &impl AsFd, program: &OwnedFd) -> io::Result<()> {
    let program = program.as_raw_fd();
    let size = libc::socklen_t::try_from(size_of_val(&program)).map_err(io::Error::other)?;
    // SAFETY: setsockopt(2) reads `size` bytes, those of `program`, from a pointer to it.
    let done = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_EBPF,
            std::ptr::from_ref(&program).cast(),
            size,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `bpf_attr` of BPF_PROG_LOAD, up to the field that says for which use.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    licence: u64,
    log: [u64; 2],
    version_and_flags: [u32; 2],
    name: [u8; 16],
    device: u32,
    attached_as: u32,
}

fn load() -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_long = 5;
    const SK_REUSEPORT: u32 = 21;
    const SELECT_OR_MIGRATE: u32 = 40;
    let attr = Load {
        kind: SK_REUSEPORT,
        instructions: u32::try_from(PASS.len()).map_err(io::Error::other)?,
        code: PASS.as_ptr().addr() as u64,
        licence: c"Dual MIT/GPL".as_ptr().addr() as u64,
        attached_as: SELECT_OR_MIGRATE,
        ..Load::default()
    };
    // SAFETY: bpf(2) reads `attr` for its whole length; the code and the licence in it are static.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_LOAD, std::ptr::from_ref(&attr), size_of::<Load>())
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let opened = i32::try_from(done).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for this caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

    #[test]
    fn what_waits_at_a_socket_that_is_closed_goes_to_the_other_one() {
        // Where the kernel lets this process load none, nothing can be kept.
        if prepare().is_err() {
            return;
        }
        let open = |port: u16| -> TcpListener {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let socket = crate::sys::sockets::listener(at, |s| s.set_reuse_port(true)).unwrap();
            keep_queue(&socket);
            socket.into()
        };
        let closed = open(0);
        let addr = closed.local_addr().unwrap();
        let stays = open(addr.port());
        let callers: Vec<_> = (0..64).map(|_| TcpStream::connect(addr).unwrap()).collect();
        drop(closed);
        let accepted = (0..).map_while(|_: u32| stays.accept().ok()).count();
        assert_eq!(accepted, callers.len());
    }
}
