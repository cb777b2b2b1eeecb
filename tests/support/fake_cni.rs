//! An istio-cni of ours: it listens at a path, takes whoever connects, and says what a test wants.
//! Its messages are made by hand, so that what reads them is not what has made them.
#![allow(dead_code, reason = "each binary takes what it needs")]

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use socket2::{Domain, SockAddr, Socket, Type};

use super::wait::{again, read_once};

/// How long it waits for what must come.
const LIMIT: Duration = Duration::from_secs(20);

/// The socket at which it listens.
pub(crate) struct FakeCni {
    socket: Socket,
    path: PathBuf,
}

impl FakeCni {
    /// Listens at this path, also where one before it has.
    pub(crate) fn listen(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        socket.bind(&SockAddr::unix(path).expect("a short path")).expect("bound");
        socket.listen(8).expect("listens");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        Self { socket, path: path.to_owned() }
    }

    /// The next one that connects and says hello.
    #[track_caller]
    pub(crate) fn accept(&self) -> Conversation {
        let (socket, _) = again(|| self.socket.accept()).expect("somebody connects");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        let conversation = Conversation(socket);
        assert_eq!(conversation.hears(), [8, 1], "hello");
        conversation
    }
}

impl Drop for FakeCni {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One connection; dropping it closes it.
pub(crate) struct Conversation(Socket);

impl Conversation {
    /// Says this, with these descriptors.
    #[track_caller]
    pub(crate) fn says(&self, message: &[u8], fds: &[BorrowedFd<'_>]) {
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let (pieces, flags) = ([IoSlice::new(message)], MsgFlags::MSG_NOSIGNAL);
        let fd = self.0.as_raw_fd();
        again(|| Ok(sendmsg::<UnixAddr>(fd, &pieces, rights, flags, None)?)).expect("said");
    }

    /// The next message that it is told; empty once the other end has closed.
    #[track_caller]
    pub(crate) fn hears(&self) -> Vec<u8> {
        let mut room = [0; 2048];
        let bytes = read_once(&mut &self.0, &mut room).expect("something is said in time");
        room[..bytes].to_vec()
    }

    /// Says this and hears the acknowledgement: why not, empty if all is well.
    #[track_caller]
    pub(crate) fn asks(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> String {
        self.says(message, fds);
        error_of(&self.hears())
    }

    /// Whether nothing is said that was not asked for.
    pub(crate) fn hears_nothing(&self) -> bool {
        self.0.set_nonblocking(true).expect("set");
        let heard = read_once(&mut &self.0, &mut [0; 8]);
        self.0.set_nonblocking(false).expect("set");
        heard.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// What an acknowledgement says (`WorkloadResponse { ack: Ack { error } }`).
#[track_caller]
fn error_of(message: &[u8]) -> String {
    let field = |bytes: &[u8]| -> Vec<u8> {
        let (tag, rest) = bytes.split_first().expect("a field");
        assert_eq!(*tag, 0x0a, "field 1 of {message:02x?}");
        let (mut length, mut read) = (0, 0);
        loop {
            length |= usize::from(rest[read] & 0x7f) << (7 * read);
            read += 1;
            if rest[read - 1] & 0x80 == 0 {
                break;
            }
        }
        assert_eq!(rest.len() - read, length, "{message:02x?}");
        rest[read..].to_vec()
    };
    let ack = field(message);
    if ack.is_empty() {
        return String::new();
    }
    String::from_utf8(field(&ack)).expect("text")
}

fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut all = vec![number << 3 | 2];
    let mut length = value.len();
    while length > 0x7f {
        all.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    all.push(u8::try_from(length).expect("seven bits"));
    all.extend(value);
    all
}

/// This pod is on the node.
pub(crate) fn add(uid: &str, namespace: &str, name: &str, service_account: &str) -> Vec<u8> {
    let info = [(1, name), (2, namespace), (3, service_account)];
    let info: Vec<u8> =
        info.iter().flat_map(|(number, text)| field(*number, text.as_bytes())).collect();
    field(1, &[field(1, uid.as_bytes()), field(2, &info)].concat())
}

/// It still is.
pub(crate) fn keep(uid: &str) -> Vec<u8> {
    field(5, &field(1, uid.as_bytes()))
}

/// It has left.
pub(crate) fn del(uid: &str) -> Vec<u8> {
    field(2, &field(2, uid.as_bytes()))
}

/// All have been named.
pub(crate) fn snapshot_sent() -> Vec<u8> {
    field(3, &[])
}
