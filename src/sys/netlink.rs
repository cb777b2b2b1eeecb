//! What the kernel tells of changes in a network namespace (netlink(7)): of nftables' rules, of the
//! rules and routes of policy routing, of interfaces.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

use super::netns::Netns;

/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const NFTABLES: u32 = 7;
/// `RTNLGRP_LINK`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_ROUTE` and `_IPV6_RULE` of
/// linux/rtnetlink.h.
const ROUTING: [u32; 5] = [1, 7, 8, 11, 19];

/// `RTM_NEWROUTE` and `RTM_DELROUTE`.
const OF_ROUTES: [u16; 2] = [24, 25];

/// What a message is about.
#[derive(Clone, Copy, Debug)]
pub enum Subject {
    /// The rules of nftables.
    Nftables,
    /// Interfaces, rules of policy routing, and the routes of this table.
    Routing {
        /// Its number, of one byte.
        table: u8,
    },
}

/// A socket that hears of changes in one namespace. It does not block.
#[derive(Debug)]
pub struct Notices {
    socket: OwnedFd,
    subject: Subject,
}

impl Notices {
    /// Listens inside `netns`.
    ///
    /// # Errors
    /// If it cannot be entered, no descriptor is left, or the kernel refuses (`CAP_NET_ADMIN`).
    pub fn open(netns: &Netns, subject: Subject) -> io::Result<Self> {
        let (protocol, groups) = match subject {
            Subject::Nftables => (SockProtocol::NetlinkNetFilter, &[NFTABLES][..]),
            Subject::Routing { .. } => (SockProtocol::NetlinkRoute, &ROUTING[..]),
        };
        let groups = groups.iter().fold(0, |all, group| all | 1 << (group - 1));
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let open = || -> nix::Result<OwnedFd> {
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
            Ok(socket)
        };
        Ok(Self { socket: netns.run(open)??, subject })
    }

    /// Takes what has arrived, up to a bound; whether any of it may be a change. What was lost, as
    /// nobody took it in time, may be one.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing has arrived; else the socket is of no more use.
    pub fn take(&self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let mut changed = false;
        for taken in 0..MOST_AT_ONCE {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(n) => changed |= concerns(self.subject, buffer.get(..n).unwrap_or_default()),
                Err(Errno::ENOBUFS) => changed = true,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if taken > 0 => return Ok(changed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(changed)
    }
}

/// How many datagrams are taken before others have their turn.
const MOST_AT_ONCE: usize = 64;

/// Notices that a runtime waits for.
#[derive(Debug)]
pub struct AwaitedNotices(AsyncFd<Notices>);

impl AwaitedNotices {
    /// On the current runtime.
    ///
    /// # Errors
    /// If the runtime takes no more descriptors.
    pub fn new(notices: Notices) -> io::Result<Self> {
        // SAFETY: what is registered owns its descriptor, which nobody else closes and which stays
        // the same until it is dropped.
        Ok(Self(unsafe { AsyncFd::register_with_interest(notices, Interest::READABLE) }?))
    }

    /// Waits until something about the subject may have changed.
    ///
    /// # Errors
    /// If the socket is of no more use.
    ///
    /// # Cancel safety
    /// Cancel safe: what has arrived is told by this call or the next.
    pub async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|notices| notices.get_ref().take()) {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Forgets what has arrived until now.
    pub fn forget(&self) {
        let _ = self.0.get_ref().take();
    }
}

impl AsRawFd for Notices {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

/// Whether the first message of a datagram is about the subject: what is told to groups comes one
/// by one, but for nftables, all of which counts.
fn concerns(subject: Subject, datagram: &[u8]) -> bool {
    let Subject::Routing { table } = subject else { return true };
    // struct nlmsghdr is 16 bytes, its type at 4; in struct rtmsg behind it the table is at 4.
    let kind = datagram.get(4..6).and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes);
    match kind {
        Some(kind) if OF_ROUTES.contains(&kind) => datagram.get(20) == Some(&table),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_other_tables_are_nobodys_concern() {
        let message = |kind: u16, table: u8| {
            let mut all = vec![0; 28];
            all[4..6].copy_from_slice(&kind.to_ne_bytes());
            all[20] = table;
            all
        };
        let routing = Subject::Routing { table: 100 };
        assert!(concerns(routing, &message(25, 100)));
        assert!(!concerns(routing, &message(25, 254)) && !concerns(routing, &message(24, 254)));
        // Rules and interfaces have other things in that place.
        assert!(concerns(routing, &message(33, 254)) && concerns(routing, &message(16, 0)));
        assert!(concerns(Subject::Nftables, &[]) && concerns(routing, &[]));
    }
}
