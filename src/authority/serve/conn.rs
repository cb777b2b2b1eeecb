//! A connection that counts, and for how long it may stay: who asks for nothing goes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use crate::lifecycle::Place;

/// How soon after the handshake the first request must be here.
const FIRST: Duration = Duration::from_secs(10);
/// How long a connection stays without another.
const IDLE: Duration = Duration::from_secs(600);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct CaClient {
    /// From where.
    pub addr: SocketAddr,
    /// The chain it showed in the handshake, leaf first.
    pub(super) chain: Option<Arc<[CertificateDer<'static>]>>,
    /// How long it may stay open.
    pub(super) stay: Arc<Stay>,
}

/// What a connection has to show for its place.
#[derive(Debug)]
pub(super) struct Stay {
    place: Place<IpAddr>,
    until: Mutex<Instant>,
}

impl Stay {
    /// From now on, for the first request.
    pub(super) fn new(place: Place<IpAddr>) -> Arc<Self> {
        Arc::new(Self { place, until: Mutex::new(Instant::now() + FIRST) })
    }

    /// A request has come.
    pub(super) fn asked(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + IDLE;
    }

    /// The caller is somebody.
    pub(super) fn proven(&self) {
        self.place.prove();
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts.
pub(super) struct CaConnection {
    tls: TlsStream<TcpStream>,
    peer: CaClient,
    alarm: Pin<Box<Sleep>>,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl CaConnection {
    pub(super) fn new(tls: TlsStream<TcpStream>, peer: CaClient) -> Self {
        let alarm = Box::pin(sleep_until(peer.stay.until()));
        let gone = Box::pin(peer.stay.place.gone().cancelled_owned());
        Self { tls, peer, alarm, gone }
    }

    /// An error once it has to go; it wakes whoever reads or writes.
    fn stays(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.gone.as_mut().poll(cx).is_ready() {
            return Err(io::Error::other("closed in favour of a newer connection"));
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            let until = self.peer.stay.until();
            if until <= Instant::now() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no request was sent"));
            }
            self.alarm.as_mut().reset(until);
        }
        Ok(())
    }
}

impl Connected for CaConnection {
    type ConnectInfo = CaClient;

    fn connect_info(&self) -> CaClient {
        self.peer.clone()
    }
}

impl AsyncRead for CaConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stays(cx)?;
        Pin::new(&mut self.tls).poll_read(cx, to)
    }
}

impl AsyncWrite for CaConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stays(cx)?;
        Pin::new(&mut self.tls).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stays(cx)?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stays(cx)?;
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
