//! A gRPC server over TLS: on loopback or in a namespace, on a runtime of its own that can be killed,
//! or fed by a test with one connection after the other.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "each binary takes what it needs; its runtime owns its tasks"
)]

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use adit::credentials::{ByteStream, Duplex};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, Router};

use super::pki::Leaf;

/// How long an address may stay somebody else's.
const LIMIT: Duration = Duration::from_secs(40);

/// Shows `leaf`, and asks for nothing.
pub(crate) fn acceptor(leaf: &Leaf) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(leaf.chain.clone(), leaf.key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config).into()
}

/// Serves at this address, showing `leaf`, on a runtime that the caller keeps.
pub(crate) fn serve_at(
    addr: SocketAddr,
    leaf: &Leaf,
    services: Router,
    goaway: oneshot::Receiver<()>,
) -> (SocketAddr, Runtime) {
    let begun = Instant::now();
    let listener = loop {
        // Who was killed closes its sockets a moment later.
        match TcpListener::bind(addr) {
            Ok(listener) => break listener,
            Err(error) => assert!(begun.elapsed() < LIMIT, "{addr}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(serve(listener, acceptor(leaf), services, goaway));
    (addr, runtime)
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    services: Router,
    goaway: oneshot::Receiver<()>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (door, conns) = Door::new(tls);
    let accepting = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = tcp.set_nodelay(true); // as Go does
            tokio::spawn(door.clone().takes(tcp));
        }
    });
    let told = async move {
        let _ = goaway.await;
        accepting.abort();
    };
    let _ = services.serve_with_incoming_shutdown(conns, told).await;
}

/// Where connections come in.
#[derive(Clone)]
pub(crate) struct Door {
    say: mpsc::Sender<io::Result<Conn>>,
    tls: TlsAcceptor,
}

impl Door {
    /// And what has come in.
    pub(crate) fn new(tls: TlsAcceptor) -> (Self, ReceiverStream<io::Result<Conn>>) {
        let (say, conns) = mpsc::channel(16);
        (Self { say, tls }, conns.into())
    }

    /// Takes a connection, if its handshake succeeds.
    pub(crate) async fn takes(self, socket: impl Duplex + 'static) {
        let socket: ByteStream = Box::new(socket);
        if let Ok(stream) = self.tls.accept(socket).await {
            let _ = self.say.send(Ok(Conn(stream))).await;
        }
    }
}

/// tonic knows TLS streams only where it makes them.
pub(crate) struct Conn(TlsStream<ByteStream>);

impl Connected for Conn {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
