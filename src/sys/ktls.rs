//! TLS records in the kernel (<https://docs.kernel.org/networking/tls.html>): after
//! [`attach`] and a key for each way, what is written to a TCP socket goes out as records, and
//! reads yield what records held. Records of other kinds than data are seen by [`receive`] only.

use std::{
    io,
    mem::size_of,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    ptr,
    sync::OnceLock,
};

use socket2::{Domain, Socket, Type};

/// Of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// The AEADs that both versions have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cipher {
    /// A key of 16 bytes.
    Aes128Gcm,
    /// A key of 32 bytes.
    Aes256Gcm,
    /// A key of 32 bytes.
    ChaCha20Poly1305,
}

/// Which way a key is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// `TLS_TX`
    Send,
    /// `TLS_RX`
    Receive,
}

/// A key with the number of its next record.
pub struct Key<'a> {
    /// Of the connection.
    pub version: Version,
    /// What it is for.
    pub cipher: Cipher,
    /// The key.
    pub key: &'a [u8],
    /// The static IV of TLS 1.3; of TLS 1.2 the salt and an explicit nonce to begin with.
    pub iv: [u8; 12],
    /// The number of the next record.
    pub sequence: u64,
}

/// What this kernel takes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Support {
    /// TLS 1.2.
    pub tls12: bool,
    /// TLS 1.3 with key updates, which came with Linux 6.14: a peer may ask for one at any time.
    pub tls13: bool,
}

const SOL_TLS: libc::c_int = 282;
/// To send; the same number as the way to send keys.
const SET_RECORD_TYPE: libc::c_int = 1;
const GET_RECORD_TYPE: libc::c_int = 2;

static SUPPORT: OnceLock<Support> = OnceLock::new();

/// What [`probe`] has found; nothing before.
#[must_use]
pub fn support() -> Support {
    SUPPORT.get().copied().unwrap_or_default()
}

/// Tries it with two sockets on loopback. Once per process, before it is confined.
///
/// # Errors
/// Why the kernel has none of it.
pub fn probe() -> Result<Support, String> {
    let pair = || -> io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let near = TcpStream::connect(listener.local_addr()?)?;
        Ok((near, listener.accept()?.0))
    };
    let keys = |version, socket: &TcpStream| -> io::Result<()> {
        for way in [Way::Send, Way::Receive] {
            set_key(socket, way, &test_key(version))?;
        }
        Ok(())
    };
    // Whether there is a module is told of a socket that is not connected: no port is taken.
    let asked = Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|socket| attach(&socket));
    if asked.is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        return Err("the kernel has no module tls (`modprobe tls`)".into());
    }
    let (one, _peer) = pair().map_err(|e| format!("loopback: {e}"))?;
    attach(&one).map_err(|e| format!("TCP_ULP tls: {e}"))?;
    let tls13 = keys(Version::Tls13, &one).and_then(|()| keys(Version::Tls13, &one)).is_ok();
    let (two, _peer) = pair().map_err(|e| format!("loopback: {e}"))?;
    let tls12 = attach(&two).and_then(|()| keys(Version::Tls12, &two)).is_ok();
    let found = Support { tls12, tls13 };
    let _ = SUPPORT.set(found);
    match found {
        Support { tls12: false, tls13: false } => Err("the kernel does not accept keys".into()),
        found => Ok(found),
    }
}

fn test_key(version: Version) -> Key<'static> {
    Key { version, cipher: Cipher::Aes128Gcm, key: &[7; 16], iv: [0; 12], sequence: 0 }
}

/// Makes a connected TCP socket ready for keys.
///
/// # Errors
/// `NotFound` where the kernel has no TLS.
pub fn attach(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, libc::SOL_TCP, libc::TCP_ULP, b"tls")
}

/// Sets the first or the next key of one way.
///
/// # Errors
/// What the kernel does not take.
pub fn set_key(socket: &impl AsFd, way: Way, key: &Key<'_>) -> io::Result<()> {
    let version: u16 = match key.version {
        Version::Tls12 => 0x0303,
        Version::Tls13 => 0x0304,
    };
    let (cipher, salt): (u16, usize) = match key.cipher {
        Cipher::Aes128Gcm => (51, 4),
        Cipher::Aes256Gcm => (52, 4),
        Cipher::ChaCha20Poly1305 => (54, 0),
    };
    // struct tls12_crypto_info_*: version, cipher, IV, key, salt, record number.
    let mut info = zeroize::Zeroizing::new(Vec::with_capacity(64));
    info.extend(version.to_ne_bytes());
    info.extend(cipher.to_ne_bytes());
    info.extend(&key.iv[salt..]);
    info.extend(key.key);
    info.extend(&key.iv[..salt]);
    info.extend(key.sequence.to_be_bytes());
    let name = match way {
        Way::Send => 1,
        Way::Receive => 2,
    };
    set_option(socket, SOL_TLS, name, &info)
}

fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: `value` is `length` bytes that the kernel only reads.
    let done = unsafe {
        let value = value.as_ptr().cast();
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value, length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Room for one control message with one byte.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    kind: [u8; 8],
}

/// Reads from one record: its content type and how many bytes. 0 bytes of type 0 are the end of
/// TCP. Does not wait.
///
/// # Errors
/// `EBADMSG` for a record that does not open, `EMSGSIZE` for one too long, `WouldBlock`.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<(u8, usize)> {
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid value of both structs of plain numbers and pointers.
    let (mut control, mut message) =
        unsafe { (std::mem::zeroed::<Control>(), std::mem::zeroed::<libc::msghdr>()) };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    // SAFETY: `message` points to `piece` and `control`, which live through the call, with their
    // sizes; the kernel writes no more than those.
    let read =
        unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    let told = message.msg_controllen >= size_of::<libc::cmsghdr>()
        && control.header.cmsg_level == SOL_TLS
        && control.header.cmsg_type == GET_RECORD_TYPE;
    Ok((if told { control.kind[0] } else { 0 }, read))
}

/// Sends `bytes` as one record of this content type. Does not wait.
///
/// # Errors
/// `WouldBlock`, and what else send(2) says.
pub fn send(socket: &impl AsFd, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let mut piece =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: as in `receive`.
    let (mut control, mut message) =
        unsafe { (std::mem::zeroed::<Control>(), std::mem::zeroed::<libc::msghdr>()) };
    control.header.cmsg_level = SOL_TLS;
    control.header.cmsg_type = SET_RECORD_TYPE;
    control.header.cmsg_len = size_of::<libc::cmsghdr>() + 1;
    control.kind[0] = kind;
    message.msg_name = ptr::null_mut();
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `message` points to `piece` and `control`, which live through the call, with their
    // sizes; the kernel only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) };
    match usize::try_from(sent) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the kernel has it (see scripts/qemu_ktls.sh), data and other records go through;
    /// elsewhere the probe says why not.
    #[test]
    fn records_go_through_the_kernel_or_the_probe_says_why_not() {
        match probe() {
            Err(why) => assert!(why.contains("module tls"), "{why}"),
            Ok(found) => {
                use std::io::{Read as _, Write as _};
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (mut far, _) = listener.accept().unwrap();
                let version = if found.tls13 { Version::Tls13 } else { Version::Tls12 };
                for socket in [&near, &far] {
                    attach(socket).unwrap();
                    set_key(socket, Way::Send, &test_key(version)).unwrap();
                    set_key(socket, Way::Receive, &test_key(version)).unwrap();
                }
                near.write_all(b"data").unwrap();
                send(&near, 21, &[1, 0]).unwrap();
                let mut heard = [0; 4];
                far.read_exact(&mut heard).unwrap();
                assert_eq!(&heard, b"data");
                let mut alert = [0; 16];
                let got = loop {
                    match receive(&far, &mut alert) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                        other => break other.unwrap(),
                    }
                };
                assert_eq!((got, &alert[..2]), ((21, 2), &[1, 0][..]));
            }
        }
    }
}
