//! The two programs, which run in the kernel.
//!
//! `remember` enters the sockets of applications into a map as they are established; `pass`
//! looks at each message of a socket in the map and, if the other end is there too, puts it
//! into that socket's queue directly. The order of bytes holds because it does so only when
//! the other end has read all that ever went TCP (what it has copied is what we have
//! written, in TCP's own sequence numbers); the queue of what went the sockmap redirect is always
//! read first. The long way is taken when that queue is long: TCP then makes the writer wait.
//!
//! Towards an application there is never more than one queue: one that is woken by edges takes a
//! read that does not fill its buffer for the last (tokio, nginx), and would not look again. So we
//! go TCP only when all that went the sockmap redirect has been read, and until then are told to
//! wait ([`super::must_wait`]). Our own reads know of the two queues.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{
    btf::Btf,
    insn::{
        Asm, Label,
        Reg::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10},
        Size::{Double, Word},
        When::{Equal, Greater, NotEqual},
    },
};
use crate::sys::sockets::MARK;

// Helpers by number, see bpf-helpers(7) and `enum bpf_func_id` of linux/bpf.h.
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const SOCK_HASH_UPDATE: i32 = 70;
const MSG_REDIRECT_HASH: i32 = 71;
const GET_NETNS_COOKIE: i32 = 122;
const TCP_SOCK: i32 = 137;

const AF_INET: i32 = libc::AF_INET;
const AF_INET6: i32 = libc::AF_INET6;

/// Where a context keeps what a [`super::SocketEnds`] is made of.
struct Context {
    family: i16,
    remote_v4: i16,
    local_v4: i16,
    remote_v6: i16,
    local_v6: i16,
    remote_port: i16,
    local_port: i16,
}

/// `struct bpf_sock_ops`
const SOCK_OPS: Context = Context {
    family: 20,
    remote_v4: 24,
    local_v4: 28,
    remote_v6: 32,
    local_v6: 48,
    remote_port: 64,
    local_port: 68,
};
const SOCK_OPS_DATA_SENT: i16 = 152;
const SOCK_OPS_SOCKET: i16 = 184;
/// `mark` of `struct bpf_sock`
const SOCKET_MARK: i16 = 16;

/// `struct sk_msg_md`
const SK_MSG: Context = Context {
    family: 16,
    remote_v4: 20,
    local_v4: 24,
    remote_v6: 28,
    local_v6: 44,
    remote_port: 60,
    local_port: 64,
};
const SK_MSG_SIZE: i16 = 68;
const SK_MSG_SOCKET: i16 = 72;

const ACTIVE_ESTABLISHED: i32 = 4;
const PASSIVE_ESTABLISHED: i32 = 5;

/// Where on the stack a socket's own ends stand, and those of its partner, or its address.
const OWN: i16 = -48;
const PARTNER: i16 = -96;
const ADDRESS: i16 = -56;
/// Where on the stack a writer's [`Writer`] stands.
const WRITER: i16 = -104;

/// The ends, in the map of sockets, of one that takes nothing.
pub(super) const REFUSES: [u8; 48] = [0; 48];

/// Who writes, as far as it matters for the way.
#[derive(Clone, Copy)]
pub(super) enum Writer {
    App = 0,
    Ours = 1,
    /// Ours, for whom it is TCP from now on.
    OursLast = 2,
}

/// The maps that the programs use.
pub(super) struct Maps {
    /// Cookie of a network namespace → 1.
    pub(super) watched: OwnedFd,
    /// A socket's ends → where the kernel keeps it, a number.
    pub(super) known: OwnedFd,
    /// A socket's ends → the socket, to send to.
    pub(super) sockets: OwnedFd,
    /// A socket's ends → those of its partner, where the kernel keeps that, and its [`Writer`].
    pub(super) partners: OwnedFd,
}

/// Where the kernel keeps three numbers, and how it is asked for those of another socket.
pub(super) struct Kernel {
    write_seq: i16,
    copied_seq: i16,
    queued: i16,
    upper: i16,
    tcp_sock: i32,
    read_only_cast: i32,
}

impl Kernel {
    /// # Errors
    /// If the kernel does not say.
    pub(super) fn running() -> io::Result<Self> {
        let btf = Btf::of_kernel()?;
        let missing = |what: &str| io::Error::new(io::ErrorKind::NotFound, what.to_owned());
        let field = |of, path: &[&str]| {
            btf.offset(of, path).ok_or_else(|| missing(&format!("{of}.{}", path.join("."))))
        };
        Ok(Self {
            write_seq: field("tcp_sock", &["write_seq"])?,
            copied_seq: field("tcp_sock", &["copied_seq"])?,
            queued: field("sock", &["sk_backlog", "rmem_alloc"])?,
            upper: field("inet_connection_sock", &["icsk_ulp_ops"])?,
            tcp_sock: btf.number_of("tcp_sock").ok_or_else(|| missing("tcp_sock"))?,
            read_only_cast: btf
                .function("bpf_rdonly_cast")
                .ok_or_else(|| missing("bpf_rdonly_cast (Linux 6.2)"))?,
        })
    }
}

/// Lays a socket's [`super::SocketEnds`] down at [`OWN`], or jumps to `other` if it is not IP.
fn own_ends(asm: &mut Asm, context: &Context, other: Label) {
    let (v6, ports) = (asm.label(), asm.label());
    asm.copy(R1, R6);
    asm.call(GET_NETNS_COOKIE);
    asm.store(Double, OWN, R0);
    asm.load(Word, R1, R6, context.family);
    asm.jump_if(R1, Equal, AF_INET6, v6);
    asm.jump_if(R1, NotEqual, AF_INET, other);
    for (at, address) in [(OWN + 8, context.local_v4), (OWN + 24, context.remote_v4)] {
        asm.store_word(at, 0);
        asm.store_word(at + 4, 0);
        asm.store_word(at + 8, i32::from_le_bytes([0, 0, 0xff, 0xff]));
        asm.load(Word, R1, R6, address);
        asm.store(Word, at + 12, R1);
    }
    asm.jump(ports);
    asm.place(v6);
    for (at, address) in [(OWN + 8, context.local_v6), (OWN + 24, context.remote_v6)] {
        for word in [0, 4, 8, 12] {
            asm.load(Word, R1, R6, address + word);
            asm.store(Word, at + word, R1);
        }
    }
    asm.place(ports);
    asm.load(Word, R1, R6, context.local_port);
    asm.store(Word, OWN + 40, R1);
    asm.load(Word, R1, R6, context.remote_port);
    asm.store(Word, OWN + 44, R1);
}

fn call_with_key(asm: &mut Asm, helper: i32, map: BorrowedFd<'_>, key: i16) {
    asm.map(R1, map);
    asm.stack(R2, key);
    asm.call(helper);
}

/// Enters a socket: an application's as one to send to, ours as one that is known. Tunnels
/// (`hbone` at either end) are neither.
pub(super) fn remember(maps: &Maps, hbone: u16) -> Vec<[u8; 8]> {
    let mut asm = Asm::default();
    let (out, established) = (asm.label(), asm.label());
    let hbone = i32::from(hbone);
    asm.copy(R6, R1);
    asm.load(Word, R1, R6, 0);
    asm.jump_if(R1, Equal, PASSIVE_ESTABLISHED, established);
    asm.jump_if(R1, NotEqual, ACTIVE_ESTABLISHED, out);
    asm.place(established);
    // TCP Fast Open: data is on its way that no program of ours has seen.
    asm.load(Word, R1, R6, SOCK_OPS_DATA_SENT);
    asm.jump_if(R1, NotEqual, 0, out);
    asm.load(Word, R1, R6, SOCK_OPS.local_port);
    asm.jump_if(R1, Equal, hbone, out);
    asm.load(Word, R1, R6, SOCK_OPS.remote_port);
    asm.byte_swap(R1);
    asm.jump_if(R1, Equal, hbone, out);
    own_ends(&mut asm, &SOCK_OPS, out);
    call_with_key(&mut asm, MAP_LOOKUP, maps.watched.as_fd(), OWN);
    asm.jump_if(R0, Equal, 0, out);
    asm.load(Double, R7, R6, SOCK_OPS_SOCKET);
    asm.jump_if(R7, Equal, 0, out);
    asm.store(Double, ADDRESS, R7);
    asm.map(R1, maps.known.as_fd());
    asm.stack(R2, OWN);
    asm.stack(R3, ADDRESS);
    asm.set(R4, 0);
    asm.call(MAP_UPDATE);
    asm.load(Word, R1, R7, SOCKET_MARK);
    asm.mask(R1, 0xfff);
    asm.jump_if(R1, Equal, i32::try_from(MARK).unwrap_or(0), out);
    asm.copy(R1, R6);
    asm.map(R2, maps.sockets.as_fd());
    asm.stack(R3, OWN);
    asm.set(R4, 0);
    asm.call(SOCK_HASH_UPDATE);
    asm.place(out);
    asm.set(R0, 1);
    asm.exit();
    asm.finish()
}

/// Hands a message of at most `most` bytes over while no more than that wait at the other end, else
/// lets it go TCP. One of ours goes with those that wait there up to `room` bytes, then is refused.
pub(super) fn pass(maps: &Maps, kernel: &Kernel, most: i32, room: i32) -> Vec<[u8; 8]> {
    let mut asm = Asm::default();
    let (out, redirect, wait) = (asm.label(), asm.label(), asm.label());
    asm.copy(R6, R1);
    asm.load(Word, R7, R6, SK_MSG_SIZE);
    own_ends(&mut asm, &SK_MSG, out);
    call_with_key(&mut asm, MAP_LOOKUP, maps.partners.as_fd(), OWN);
    asm.jump_if(R0, Equal, 0, out);
    for word in [0, 8, 16, 24, 32, 40] {
        asm.load(Double, R1, R0, word);
        asm.store(Double, PARTNER + word, R1);
    }
    asm.load(Double, R1, R0, 56);
    asm.store(Double, WRITER, R1);
    asm.load(Double, R1, R0, 48);
    asm.set(R2, kernel.tcp_sock);
    asm.call_function(kernel.read_only_cast);
    asm.copy(R8, R0);
    asm.load(Double, R1, R6, SK_MSG_SOCKET);
    asm.call(TCP_SOCK);
    asm.jump_if(R0, Equal, 0, out);
    // An application that has the kernel speak TLS: its messages are not what goes over TCP.
    for socket in [R0, R8] {
        asm.load(Double, R1, socket, kernel.upper);
        asm.jump_if(R1, NotEqual, 0, out);
    }
    asm.load(Word, R9, R0, kernel.write_seq);
    asm.load(Word, R1, R8, kernel.copied_seq);
    asm.jump32_if(R1, NotEqual, R9, out);
    let (ours, last, fresh) = (asm.label(), asm.label(), asm.label());
    asm.load(Word, R1, R8, kernel.queued);
    asm.load(Double, R2, R10, WRITER);
    asm.jump_if(R2, Equal, Writer::Ours as i32, ours);
    asm.jump_if(R2, Equal, Writer::OursLast as i32, last);
    asm.jump_if(R1, Greater, most, out);
    asm.jump(fresh);
    asm.place(last);
    asm.jump_if(R1, NotEqual, 0, wait);
    asm.jump(out);
    asm.place(ours);
    asm.jump_if(R1, Greater, room, wait);
    asm.jump_if(R1, NotEqual, 0, redirect);
    asm.place(fresh);
    asm.jump_if(R7, Greater, most, out);
    asm.place(redirect);
    asm.copy(R1, R6);
    asm.map(R2, maps.sockets.as_fd());
    asm.stack(R3, PARTNER);
    asm.set(R4, 1); // BPF_F_INGRESS
    asm.call(MSG_REDIRECT_HASH);
    asm.jump(out);
    asm.place(wait);
    // SK_DROP would be for good: the kernel keeps that verdict. The error of another socket is
    // for this message only.
    for word in 0..12 {
        asm.store_word(PARTNER + word * 4, i32::from_ne_bytes([REFUSES[0]; 4]));
    }
    asm.copy(R1, R6);
    asm.map(R2, maps.sockets.as_fd());
    asm.stack(R3, PARTNER);
    asm.set(R4, 0);
    asm.call(MSG_REDIRECT_HASH);
    asm.place(out);
    // SK_PASS: to the other end's queue if the call above said so, else TCP.
    asm.set(R0, 1);
    asm.exit();
    asm.finish()
}
