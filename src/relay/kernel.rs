//! A TLS peer as the far side of a relay whose records the kernel makes and opens
//! ([`crate::sys::ktls`]): bytes are spliced from socket to socket and never come to us.
//!
//! It takes over from [`SecuredRemote`](super::SecuredRemote) between two records. What is not data
//! comes to us: close_notify and other alerts, and in TLS 1.3 key updates (RFC 8446 §4.6.3), which
//! the kernel leaves to us: until it has the next key it opens nothing more.

mod keys;

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use tokio::{io::Interest, net::TcpStream};

use self::keys::{key, most, records, sending};
use crate::{
    lifecycle::behind_others,
    observe::conn::Meter,
    relay::{App, Broken, Remote, with_scratch},
    sys::{
        ktls::{self, Version, Way},
        pipe::Pipe,
    },
    tls::{
        Keys, TrafficKey,
        record::{ALERT, APPLICATION_DATA, HANDSHAKE, Messages, Opened, RecordError},
    },
};

/// How many moves in a row before others get their turn.
const TURNS: usize = 8;
/// How much is copied at once where there is no pipe.
const COPIED: usize = 64 * 1024;

/// The peer's socket, whose records are the kernel's.
pub(crate) struct KernelRemote {
    tcp: App,
    version: Version,
    /// Where the next keys come from, in TLS 1.3.
    secrets: Option<Keys>,
    messages: Messages,
    /// What the application has not taken yet of what came to us.
    held: Vec<u8>,
    /// What the peer's socket has not taken yet, where there was no pipe.
    unsent: Vec<u8>,
    up: Option<Pipe>,
    down: Option<Pipe>,
    /// Records that are not data, to be sent; behind a key update comes the next key.
    out: VecDeque<(u8, Vec<u8>)>,
    /// Records under the present key, about.
    sent: u64,
    /// After so many comes the next key, or in TLS 1.2 the end.
    most: u64,
    ended: bool,
    truncation: bool,
    closed: bool,
}

/// What the kernel is to go on from.
pub(crate) struct Handed {
    pub(crate) tcp: App,
    pub(crate) version: Version,
    /// To send, to receive, and where the next come from.
    pub(crate) keys: (TrafficKey, TrafficKey, Option<Keys>),
    pub(crate) messages: Messages,
    pub(crate) held: Vec<u8>,
    pub(crate) truncation: bool,
}

fn wrong(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl KernelRemote {
    /// Hands the connection to the kernel, which must have been told ([`ktls::attach`]).
    ///
    /// # Errors
    /// If the kernel does not take a key: the connection must end.
    pub(crate) fn new(handed: Handed) -> io::Result<Self> {
        let Handed { tcp, version, keys: (send, receive, secrets), .. } = handed;
        let socket = &**tcp.socket();
        ktls::set_key(socket, Way::Send, &sending(version, &send))?;
        ktls::set_key(socket, Way::Receive, &key(version, &receive))?;
        let Handed { messages, held, truncation, .. } = handed;
        Ok(Self {
            tcp,
            version,
            secrets,
            messages,
            held,
            unsent: Vec::new(),
            up: None,
            down: None,
            out: VecDeque::new(),
            sent: send.sequence,
            most: most(version, send.aead),
            ended: false,
            truncation,
            closed: false,
        })
    }

    /// Sends what is not data, until the socket is full.
    fn flush(&mut self) -> io::Result<bool> {
        while let Some((kind, bytes)) = self.out.front() {
            let socket = &**self.tcp.socket();
            match socket.try_io(Interest::WRITABLE, || ktls::send(socket, *kind, bytes)) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
            let updated = *kind == HANDSHAKE;
            self.out.pop_front();
            if updated {
                self.next_key(Way::Send)?;
                self.sent = 0;
            }
        }
        Ok(true)
    }

    fn next_key(&mut self, way: Way) -> io::Result<()> {
        let keys = |why: String| wrong(RecordError::Keys(why));
        let secrets = self.secrets.as_mut().ok_or_else(|| keys("TLS 1.2 has no next".into()))?;
        let secret = match way {
            Way::Send => &mut secrets.send,
            Way::Receive => &mut secrets.receive,
        };
        *secret = secret.next().map_err(|e| keys(e.to_string()))?;
        let next = secret.key().map_err(|e| keys(e.to_string()))?;
        ktls::set_key(&**self.tcp.socket(), way, &key(self.version, &next))
    }

    fn update_key(&mut self) {
        // One that waits answers any number of requests.
        if !self.out.iter().any(|(kind, _)| *kind == HANDSHAKE) {
            self.out.push_back((HANDSHAKE, vec![24, 0, 0, 1, 0]));
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.out.push_back((ALERT, vec![1, 0]));
    }

    /// Takes a record that cannot be spliced.
    fn receive(&mut self) -> Result<(), Broken> {
        let Self { tcp, messages, held, .. } = self;
        let socket = &**tcp.socket();
        let opened = with_scratch(|buffer| {
            let (kind, n) =
                match socket.try_io(Interest::READABLE, || ktls::receive(socket, buffer)) {
                    Ok(got) => got,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    Err(e) => return Err(Broken::Remote(opening(e))),
                };
            let kind = if kind == 0 && n > 0 { APPLICATION_DATA } else { kind };
            if kind == 0 {
                return Ok(Some(None));
            }
            let body = &buffer[..n];
            let opened = messages.take(kind, body, 0).map_err(|e| Broken::Remote(wrong(e)))?;
            if kind == APPLICATION_DATA {
                held.extend_from_slice(body);
            }
            Ok(Some(Some(opened)))
        })?;
        match opened {
            None | Some(Some(Opened::Data(_) | Opened::Nothing)) => {}
            Some(None) if self.truncation => self.ended = true,
            Some(None) => {
                let why = RecordError::Truncated;
                return Err(Broken::Remote(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
            }
            Some(Some(Opened::Closed)) => self.ended = true,
            Some(Some(Opened::KeyUpdate { requested })) => {
                self.next_key(Way::Receive).map_err(Broken::Remote)?;
                if requested {
                    self.update_key();
                    // It must not wait for the application.
                    self.flush().map_err(Broken::Remote)?;
                }
            }
        }
        Ok(())
    }

    fn send_alert(&mut self, error: &io::Error) {
        let cause = error.get_ref().and_then(|e| e.downcast_ref::<RecordError>());
        if let Some(alert) = cause.and_then(RecordError::alert) {
            self.out.push_back((ALERT, vec![2, alert]));
            let _ = self.flush();
        }
    }

    /// Moves once what can be moved; whether all has come.
    fn poll_down_once(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        meter: &Arc<Meter>,
    ) -> Poll<Result<bool, Broken>> {
        while !self.held.is_empty() {
            let n = ready!(app.poll_write(cx, &self.held)).map_err(Broken::App)?;
            self.held.drain(..n);
            meter.down.fetch_add(n as u64, Relaxed);
        }
        self.held = Vec::new();
        while self.down.as_ref().is_some_and(|pipe| pipe.inside() > 0) {
            let n = ready!(poll_drain(cx, self.down.as_mut(), app)).map_err(Broken::App)?;
            meter.down.fetch_add(n as u64, Relaxed);
        }
        if self.ended {
            return Poll::Ready(Ok(true));
        }
        let socket = Arc::clone(self.tcp.socket());
        if let Poll::Ready(ready) = socket.poll_read_ready(cx) {
            ready.map_err(Broken::Remote)?;
        } else {
            self.down.take().into_iter().for_each(Pipe::give);
            return Poll::Pending;
        }
        let Some(pipe) = lend(&mut self.down) else {
            self.receive()?;
            return Poll::Ready(Ok(false));
        };
        match socket.try_io(Interest::READABLE, || pipe.fill(&socket)) {
            // The end, or an empty record.
            Ok(0) => self.receive()?,
            Ok(_) => self.messages.passed().map_err(|e| Broken::Remote(wrong(e)))?,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // A record that is not data, or a key that is to come.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => self.receive()?,
            Err(e) => return Poll::Ready(Err(Broken::Remote(opening(e)))),
        }
        Poll::Ready(Ok(false))
    }
}

/// What the kernel says of a record that does not open.
fn opening(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EBADMSG) => wrong(RecordError::BadMac),
        Some(libc::EMSGSIZE) => wrong(RecordError::Overflow),
        Some(libc::EINVAL) => wrong(RecordError::Unexpected("a record the kernel does not take")),
        _ => error,
    }
}

/// A pipe, unless there are no descriptors left: then bytes are copied.
fn lend(place: &mut Option<Pipe>) -> Option<&mut Pipe> {
    match place {
        Some(pipe) => Some(pipe),
        None => Pipe::take().ok().map(|pipe| place.insert(pipe)),
    }
}

/// Moves once what the application says without a pipe: how much; what the peer's socket does not
/// take is `unsent`.
fn copy(app: &TcpStream, tcp: &TcpStream, unsent: &mut Vec<u8>) -> Result<usize, Broken> {
    with_scratch(|buffer| {
        let buffer = &mut buffer[..COPIED];
        let n = app.try_read(buffer).map_err(Broken::App)?;
        let taken = match tcp.try_write(&buffer[..n]) {
            Ok(taken) => taken,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(Broken::Remote(e)),
        };
        unsent.extend_from_slice(&buffer[taken..n]);
        Ok(n)
    })
}

/// Moves what is in the pipe into a socket; how much.
fn poll_drain(cx: &mut Context<'_>, pipe: Option<&mut Pipe>, to: &App) -> Poll<io::Result<usize>> {
    let Some(pipe) = pipe else { return Poll::Ready(Ok(0)) };
    let socket = to.socket();
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_io(Interest::WRITABLE, || pipe.drain(socket)) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

impl Remote for KernelRemote {
    fn poll_up(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        meter: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..TURNS {
            if self.sent >= self.most && !self.closed {
                if self.version == Version::Tls12 {
                    let why = "as many records as one key of TLS 1.2 bears";
                    return Poll::Ready(Err(Broken::Remote(wrong(RecordError::Keys(why.into())))));
                }
                self.update_key();
            }
            while !self.flush().map_err(Broken::Remote)? {
                ready!(self.tcp.socket().poll_write_ready(cx)).map_err(Broken::Remote)?;
            }
            if self.up.as_ref().is_some_and(|pipe| pipe.inside() > 0) {
                let moved = ready!(poll_drain(cx, self.up.as_mut(), &self.tcp));
                self.sent += records(moved.map_err(Broken::Remote)?);
                continue;
            }
            while !self.unsent.is_empty() {
                let n = ready!(self.tcp.poll_write(cx, &self.unsent)).map_err(Broken::Remote)?;
                self.unsent.drain(..n);
            }
            if self.closed {
                return Poll::Ready(self.tcp.finish().map_err(Broken::Remote));
            }
            let socket = app.socket();
            if let Poll::Ready(ready) = socket.poll_read_ready(cx) {
                ready.map_err(Broken::App)?;
            } else {
                self.up.take().into_iter().for_each(Pipe::give);
                return Poll::Pending;
            }
            let filled = match lend(&mut self.up) {
                Some(pipe) => {
                    socket.try_io(Interest::READABLE, || pipe.fill(socket)).map_err(Broken::App)
                }
                None => copy(socket, self.tcp.socket(), &mut self.unsent)
                    .inspect(|n| self.sent += records(*n)),
            };
            match filled {
                Ok(0) => self.close(),
                Ok(n) => {
                    meter.up.fetch_add(n as u64, Relaxed);
                }
                Err(Broken::App(e)) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        behind_others(cx);
        Poll::Pending
    }

    fn poll_down(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        meter: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..TURNS {
            match ready!(self.poll_down_once(cx, app, meter)) {
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) => {}
                Err(error) => {
                    if let Broken::Remote(error) = &error {
                        self.send_alert(error);
                    }
                    return Poll::Ready(Err(error));
                }
            }
        }
        behind_others(cx);
        Poll::Pending
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.tcp.poll_reset(cx)
    }

    fn abort(&mut self) {
        self.tcp.abort();
    }

    fn unsent(&self) -> usize {
        self.tcp.unsent()
    }
}
