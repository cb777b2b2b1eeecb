//! What iptables of the old kind has in a namespace, as far as the kernel says so without a tool: it
//! tells nobody of changes.

use std::{io, mem, os::fd::AsRawFd};

use socket2::{Domain, Socket, Type};

use super::netns::Netns;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO` of linux/netfilter_ipv{4,6}/ip{,6}_tables.h.
const GET_INFO: libc::c_int = 64;

/// `struct ipt_getinfo` and `struct ip6t_getinfo` of the same, which are alike.
#[repr(C)]
struct Info {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    num_entries: u32,
    size: u32,
}

/// The table `nat` of one family, which is there. It is asked about as often as one likes.
#[derive(Debug)]
pub struct NatTable {
    socket: Socket,
    level: libc::c_int,
}

/// How many rules a table has, their bytes, and where those of each hook begin: whoever adds or
/// removes one changes something of it.
pub type Extent = [u32; 12];

impl NatTable {
    /// That of IPv4.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or no descriptor is left.
    pub fn ipv4(netns: &Netns) -> io::Result<Self> {
        Self::open(netns, Domain::IPV4, libc::SOL_IP)
    }

    /// That of IPv6.
    ///
    /// # Errors
    /// As [`NatTable::ipv4`].
    pub fn ipv6(netns: &Netns) -> io::Result<Self> {
        Self::open(netns, Domain::IPV6, libc::SOL_IPV6)
    }

    fn open(netns: &Netns, family: Domain, level: libc::c_int) -> io::Result<Self> {
        // The kernel answers at any socket of the family; this one has no port that others reach.
        Ok(Self { socket: netns.run(|| Socket::new(family, Type::DGRAM, None))??, level })
    }

    /// How far it extends now. Where there is no such table this makes one: ask
    /// `/proc/net/ip_tables_names` first.
    ///
    /// # Errors
    /// That the kernel has none, or says so to nobody without `CAP_NET_ADMIN`.
    pub fn extent(&self) -> io::Result<Extent> {
        let mut name = [0; 32];
        name[..3].copy_from_slice(b"nat");
        let mut info = Info {
            name,
            valid_hooks: 0,
            hook_entry: [0; 5],
            underflow: [0; 5],
            num_entries: 0,
            size: 0,
        };
        let mut length = mem::size_of::<Info>() as libc::socklen_t;
        // SAFETY: the descriptor is open for the whole call, and the kernel writes no more than
        // `length` bytes into `info`, which is made of numbers alone.
        let done = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                self.level,
                GET_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut extent = [0; 12];
        extent[0] = info.num_entries;
        extent[1] = info.size;
        extent[2..7].copy_from_slice(&info.hook_entry);
        extent[7..].copy_from_slice(&info.underflow);
        Ok(extent)
    }
}
