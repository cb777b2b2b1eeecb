//! Whether the CA refuses our certificate. In TLS 1.3 it says so by an alert after our side of the
//! handshake is over, which HTTP/2 passes on as text: so it is looked for in what is read.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use rustls::{AlertDescription, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Said by a connection to whoever made it.
#[derive(Clone, Default)]
pub(super) struct CertificateRefused(Arc<AtomicBool>);

impl CertificateRefused {
    pub(super) fn seen(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn look(&self, error: &io::Error) {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        if let Some(Error::AlertReceived(alert)) = tls
            && is_of_certificate(*alert)
        {
            self.0.store(true, Ordering::Release);
        }
    }
}

fn is_of_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
    )
}

/// A connection on which an alert is looked for.
pub(super) struct Heard<S> {
    pub(super) stream: S,
    pub(super) refused: CertificateRefused,
}

impl<S: AsyncRead + Unpin> Heard<S> {
    /// A write that fails may come before the alert that says why is read.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &done {
            self.refused.look(error);
            let mut rest = [0; 64];
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut rest));
            if let Poll::Ready(Err(error)) = read {
                self.refused.look(&error);
            }
        }
        done
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, to);
        if let Poll::Ready(Err(error)) = &read {
            self.refused.look(error);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, from);
        self.written(cx, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
