//! The application's socket, with its ways to end.

use std::{
    future::Future,
    io,
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, time::Sleep};

use super::SockmapRedirect;
use crate::sys::sockets;

/// One TCP socket. Dropped before [`App::finish`], it resets the connection: what was cut in
/// the middle must not look complete.
pub struct App {
    socket: Arc<TcpStream>,
    finished: bool,
    reset: Option<Pin<Box<dyn Future<Output = io::Error> + Send>>>,
    redirect: Option<Box<SockmapRedirect>>,
    pause: Option<Box<Pause>>,
}

/// The kernel does not tell when an application has read what the sockmap redirect carried.
struct Pause {
    over: Pin<Box<Sleep>>,
    next: Duration,
}

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

impl App {
    /// Takes a connected socket.
    #[must_use]
    pub fn new(socket: TcpStream) -> Self {
        Self { socket: Arc::new(socket), finished: false, reset: None, redirect: None, pause: None }
    }

    /// With a sockmap redirect between the application and us.
    #[must_use]
    pub fn with_sockmap_redirect(mut self, redirect: SockmapRedirect) -> Self {
        self.redirect = Some(Box::new(redirect));
        self
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    /// Writes what the application takes.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut length = FIRST_PAUSE;
            if let Some(pause) = &mut self.pause {
                ready!(pause.over.as_mut().poll(cx));
                length = pause.next;
            }
            match self.socket.try_write(bytes) {
                Ok(n) => {
                    self.pause = None;
                    return Poll::Ready(Ok(n));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.pause = None;
                    ready!(self.socket.poll_write_ready(cx))?;
                }
                Err(e)
                    if self
                        .redirect
                        .as_ref()
                        .is_some_and(|way| way.must_wait(&self.socket, &e)) =>
                {
                    let over = Box::pin(tokio::time::sleep(length));
                    let next = (length * 2).min(LONGEST_PAUSE);
                    self.pause = Some(Box::new(Pause { over, next }));
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// The socket holds no more than this call has seen: the next readiness is a new one. Saves
    /// the read that would only say so. Not where two queues lead to it: a read stops at the end
    /// of the first.
    pub fn drained(&mut self) {
        let redirect = self.redirect.as_mut();
        if redirect.is_some_and(|redirect| redirect.message(&self.socket)) {
            return;
        }
        sockets::not_ready(&self.socket, Interest::READABLE);
    }

    /// Says that nothing more comes (FIN).
    ///
    /// # Errors
    /// What the kernel said, a peer that is gone excepted: its own end is told by reads.
    pub fn finish(&mut self) -> io::Result<()> {
        self.finished = true;
        self.leave_redirect();
        match SockRef::from(&*self.socket).shutdown(Shutdown::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    /// Ends the sockmap redirect, if there is one: one side has said all.
    pub(super) fn leave_redirect(&mut self) {
        if let Some(redirect) = &mut self.redirect {
            redirect.end();
        }
    }

    /// Resets the connection when the socket is dropped.
    pub fn abort(&mut self) {
        self.finished = true;
        let _ = SockRef::from(&*self.socket).set_linger(Some(Duration::ZERO));
    }

    /// How many bytes the kernel still holds for the other end.
    #[must_use]
    pub fn unsent(&self) -> usize {
        match sockets::unacknowledged(&self.socket) {
            usize::MAX => 0, // it does not tell
            bytes => bytes,
        }
    }

    /// Waits for a reset by the other end that no read would tell of: something is there, or
    /// the end, and nobody reads it.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Err(error) = ready!(self.socket.poll_read_ready(cx)) {
            return Poll::Ready(error);
        }
        let socket = &self.socket;
        let reset = self.reset.get_or_insert_with(|| Box::pin(until_reset(Arc::clone(socket))));
        reset.as_mut().poll(cx)
    }
}

async fn until_reset(socket: Arc<TcpStream>) -> io::Error {
    loop {
        if let Err(e) = socket.ready(Interest::ERROR).await {
            return e;
        }
        match socket.take_error() {
            Ok(Some(e)) | Err(e) => return e,
            // Nothing wrong after all (a stale event): forget it and wait on.
            Ok(None) => sockets::not_ready(&socket, Interest::ERROR),
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if !self.finished {
            self.abort();
        }
    }
}
