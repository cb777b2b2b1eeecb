//! The sockmap redirect between an application and us on the same host: eBPF puts what one writes
//! into the other's receive queue, past TCP, netfilter and the loopback device.
//!
//! [`Sockmap::load`] starts it for this process; a pod's namespace is [watched](Sockmap::watch), so
//! that its applications' sockets are known; a connection takes the sockmap redirect once its two
//! sockets are [paired](Watched::pair). What runs in the kernel is in [`programs`].

mod btf;
mod call;
mod insn;
mod programs;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use programs::{Kernel, Maps, REFUSES, Writer};

use super::netns::Netns;

/// How many connections can take the sockmap redirect.
const MOST: u32 = 32_768;
/// Larger messages go TCP, and so do all while more than this waits at the other end: what waits
/// there takes from the window that TCP offers, and when it has been read nobody tells the sender
/// that there is room again.
const MOST_BYTES: i32 = 16 * 1024;
/// While so much waits at an application, we do too.
const ROOM: i32 = 64 * 1024;

/// The programs and maps. Dropping it ends the sockmap redirect for all.
pub struct Sockmap {
    maps: Maps,
    _attached: OwnedFd,
    _refuser: [TcpStream; 2],
}

/// A namespace whose applications take the sockmap redirect. Dropping it ends that.
pub struct Watched {
    sockmap: Arc<Sockmap>,
    cookie: u64,
}

/// Two sockets that take the sockmap redirect. Dropping it ends that.
pub struct Pair {
    sockmap: Arc<Sockmap>,
    ours: SocketEnds,
    app: SocketEnds,
    app_at: [u8; 8],
}

/// The two ends of a connection as one socket sees them, as the programs lay them down.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SocketEnds([u8; 48]);

impl SocketEnds {
    fn new(cookie: u64, local: SocketAddr, remote: SocketAddr) -> Self {
        let mut ends = [0; 48];
        ends[..8].copy_from_slice(&cookie.to_ne_bytes());
        ends[8..24].copy_from_slice(&octets(local.ip()));
        ends[24..40].copy_from_slice(&octets(remote.ip()));
        ends[40..44].copy_from_slice(&u32::from(local.port()).to_ne_bytes());
        // The kernel keeps the port that a socket calls in the order of the network.
        ends[46..].copy_from_slice(&remote.port().to_be_bytes());
        Self(ends)
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl Sockmap {
    /// Loads the programs and attaches them to the root of the cgroup v2 hierarchy.
    ///
    /// # Errors
    /// What this kernel lacks: a right, cgroup v2, type information, a helper.
    pub fn load(hbone: u16) -> io::Result<Arc<Self>> {
        let say = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"))
        };
        check_release(nix::sys::utsname::uname()?.release().to_str().unwrap_or_default())?;
        let kernel = Kernel::running().map_err(say("kernel types"))?;
        let maps = Maps {
            watched: call::create_map::<8, 4>(call::BpfMapKind::Hash, 65_536)
                .map_err(say("a map (needs CAP_BPF and CAP_NET_ADMIN)"))?,
            known: call::create_map::<48, 8>(call::BpfMapKind::RecentHash, MOST)
                .map_err(say("a map of what is known"))?,
            sockets: call::create_map::<48, 8>(call::BpfMapKind::SockHash, 2 * MOST)
                .map_err(say("a map of sockets"))?,
            partners: call::create_map::<48, 64>(call::BpfMapKind::Hash, 2 * MOST)
                .map_err(say("a map of partners"))?,
        };
        let pass = programs::pass(&maps, &kernel, MOST_BYTES, ROOM);
        let pass = call::load(call::Program::SkMsg, &pass).map_err(say("program `pass`"))?;
        call::attach_to_map(&pass, &maps.sockets).map_err(say("attaching `pass`"))?;
        let refuser = refuser().map_err(say("a connection over loopback"))?;
        let descriptor = u64::try_from(refuser[0].as_raw_fd()).map_err(io::Error::other)?;
        call::update(&maps.sockets, &REFUSES, &descriptor.to_ne_bytes())
            .map_err(say("a socket in the map"))?;
        refuser[0].shutdown(Shutdown::Write)?;
        let remember = programs::remember(&maps, hbone);
        let remember =
            call::load(call::Program::SockOps, &remember).map_err(say("program `remember`"))?;
        let root = call::root_cgroup().map_err(say("cgroup v2 (needs CAP_SYS_ADMIN)"))?;
        let attached = call::attach_to_cgroup(&remember, &root)
            .map_err(say("attaching to the root cgroup"))?;
        Ok(Arc::new(Self { maps, _attached: attached, _refuser: refuser }))
    }

    /// Has the sockets that applications in `netns` open from now on take part.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or its cookie not be read (Linux 5.14).
    pub fn watch(self: &Arc<Self>, netns: &Netns) -> io::Result<Watched> {
        let cookie = netns.run(|| {
            let kind = socket2::Type::STREAM;
            let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None)?;
            netns_cookie(&socket)
        })??;
        call::update(&self.maps.watched, &cookie.to_ne_bytes(), &1_u32.to_ne_bytes())?;
        Ok(Watched { sockmap: Arc::clone(self), cookie })
    }
}

impl Watched {
    /// Joins a socket of ours with the application's at its other end, whose `app` are its
    /// (local, remote) addresses as the application sees them. `None` if the application's
    /// socket is not known: it was there before us.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn pair(
        &self,
        ours: &tokio::net::TcpStream,
        app: (SocketAddr, SocketAddr),
    ) -> io::Result<Option<Pair>> {
        let maps = &self.sockmap.maps;
        let app = SocketEnds::new(self.cookie, app.0, app.1);
        let own = SocketEnds::new(self.cookie, ours.local_addr()?, ours.peer_addr()?);
        let known = |ends: &SocketEnds| call::lookup(&maps.known, &ends.0);
        let (Some(app_at), Some(own_at)) = (known(&app), known(&own)) else { return Ok(None) };
        let descriptor = u64::try_from(ours.as_fd().as_raw_fd()).map_err(io::Error::other)?;
        call::update(&maps.sockets, &own.0, &descriptor.to_ne_bytes())?;
        let pair = Pair { sockmap: Arc::clone(&self.sockmap), ours: own, app, app_at };
        call::update(&maps.partners, &own.0, &partner(&app, app_at, Writer::Ours))?;
        call::update(&maps.partners, &app.0, &partner(&own, own_at, Writer::App))?;
        Ok(Some(pair))
    }
}

/// What a writer's way leads to.
fn partner(ends: &SocketEnds, at: [u8; 8], writer: Writer) -> [u8; 64] {
    let mut partner = [0; 64];
    partner[..48].copy_from_slice(&ends.0);
    partner[48..56].copy_from_slice(&at);
    partner[56..].copy_from_slice(&(writer as u64).to_ne_bytes());
    partner
}

/// A write to a paired socket was refused, not failed: the application has yet to read what went
/// the sockmap redirect. A connection that is over has no peer any more.
#[must_use]
pub fn must_wait(socket: &tokio::net::TcpStream, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe && socket.peer_addr().is_ok()
}

/// A socket that answers each write with EPIPE, and the one that keeps it so.
fn refuser() -> io::Result<[TcpStream; 2]> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let refuser = TcpStream::connect(listener.local_addr()?)?;
    Ok([refuser, listener.accept()?.0])
}

impl Pair {
    /// Both sides go TCP from now on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn last(&self) -> io::Result<()> {
        let partners = &self.sockmap.maps.partners;
        let app = partner(&self.app, self.app_at, Writer::OursLast);
        call::update(partners, &self.ours.0, &app)?;
        call::delete(partners, &self.app.0);
        Ok(())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        call::delete(&self.sockmap.maps.watched, &self.cookie.to_ne_bytes());
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        call::delete(&self.sockmap.maps.partners, &self.app.0);
        call::delete(&self.sockmap.maps.partners, &self.ours.0);
    }
}

/// The first Linux that counts what waits in a socket's queue for the sockmap redirect as memory of
/// that socket: without it there is no bound.
const OLDEST: (u32, u32) = (6, 14);

fn check_release(release: &str) -> io::Result<()> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    };
    if version >= OLDEST {
        return Ok(());
    }
    let why = format!("Linux {release} is too old: {}.{} is needed", OLDEST.0, OLDEST.1);
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

/// A number that no other network namespace has had since the start of the kernel.
fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let (mut cookie, mut length) =
        (0_u64, libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8));
    // SAFETY: the option's value is 8 bytes, which is what the two pointers offer; the
    // descriptor is borrowed and so open.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_do_not_count_what_waits_are_refused() {
        for (release, good) in [
            ("6.14.0", true),
            ("6.18.44-fc-v657", true),
            ("7.0-rc1", true),
            ("6.12.9-amd64", false),
            ("5.15.0", false),
            ("", false),
        ] {
            assert_eq!(check_release(release).is_ok(), good, "{release}");
        }
    }
}
