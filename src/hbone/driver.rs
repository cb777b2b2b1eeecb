//! Moves bytes between one tunnel's socket and its [`Core`], on the worker that owns it.

use std::{
    future::poll_fn,
    io,
    net::Shutdown,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{io::Interest, net::TcpStream, time::sleep};

use super::{
    callers::Share,
    core::{Core, TunnelError},
    http2::{Code, Limits, Request, Role},
    patience::{ANSWER, Next, Patience},
};
use crate::{
    relay::with_scratch,
    sys::sockets,
    tls::{Session, record::RecordError},
};

/// A tunnel, shared by its driver and its streams.
pub(super) struct Tunnel {
    tcp: TcpStream,
    core: Mutex<Core>,
}

/// Ends a tunnel when whoever drives it is gone, whatever took it: no stream waits for ever.
pub(super) struct DriverGuard(pub(super) Arc<Tunnel>);

impl Drop for DriverGuard {
    fn drop(&mut self) {
        self.0.end(TunnelError::Closed); // nothing, if it is over
    }
}

/// How many reads in a row before others get their turn.
const TURNS: usize = 4;

impl Tunnel {
    /// `share`: what the peer may have held for it (server).
    pub(super) fn new(
        role: Role,
        limits: Limits,
        session: Session,
        share: Option<Share>,
    ) -> Result<Arc<Self>, TunnelError> {
        let mut core = Core::new(role, limits, session.keys, share)?;
        let mut early = session.early;
        if let Err(over) = core.received(&mut early) {
            core.send_goaway(&over, &session.tcp);
            return Err(over);
        }
        Ok(Arc::new(Self { tcp: session.tcp, core: Mutex::new(core) }))
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request and its stream (server). Cancel safe; must be called for the tunnel to
    /// move.
    ///
    /// # Errors
    /// Why the tunnel is over.
    pub(super) async fn next_request(&self) -> Result<(u32, Request), TunnelError> {
        poll_fn(|cx| {
            // Those that wait go before more is read.
            let mut next = self.core().incoming.pop_front();
            let mut over = Poll::Pending;
            if next.is_none() {
                over = self.poll_io(cx);
                next = self.core().incoming.pop_front();
            }
            match next {
                Some(next) => Poll::Ready(Ok(next)),
                None => over.map(Err),
            }
        })
        .await
    }

    /// Moves bytes until the tunnel is over. Cancel safe.
    pub(super) async fn carry(&self) -> TunnelError {
        poll_fn(|cx| self.poll_io(cx)).await
    }

    /// Moves bytes until the peer's SETTINGS have come. Cancel safe.
    ///
    /// # Errors
    /// Why the tunnel is over.
    pub(super) async fn settings(&self) -> Result<(), TunnelError> {
        poll_fn(|cx| match self.poll_io(cx) {
            _ if self.core().http2.has_settings() => Poll::Ready(Ok(())),
            over => over.map(Err),
        })
        .await
    }

    /// Ends when the peer no longer answers. Cancel safe.
    pub(super) async fn silence(&self) -> TunnelError {
        let mut patience = Patience::default();
        loop {
            let heard = self.core().heard;
            let until = match patience.look(Instant::now(), heard) {
                Next::GiveUp => {
                    return TunnelError::Silent(format!("no answer to PING within {ANSWER:?}"));
                }
                Next::Wait(until) => until,
                Next::Ask(until) => {
                    let mut core = self.core();
                    core.http2.ping(*b"adit:ask");
                    core.wake_driver();
                    until
                }
            };
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// Says GOAWAY; streams that are open go on.
    pub(super) fn leave(&self, last_call: bool) {
        let mut core = self.core();
        core.http2.go_away(Code::NO_ERROR, last_call);
        core.wake_driver();
    }

    /// Ends the tunnel in order: what is queued is still sent and what the peer still says is
    /// read, for at most `within`. A socket that is closed with something unread would reset the
    /// connection, and throw away what is on its way.
    pub(super) async fn close(&self, within: Duration) {
        {
            let mut core = self.core();
            if !core.http2.is_leaving() {
                core.http2.go_away(Code::NO_ERROR, false);
            }
            let _ = core.seal_control();
            let _ = core.records.sealer.close();
        }
        let flushed = poll_fn(|cx| match self.poll_io(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending if self.core().records.sealer.waiting() == 0 => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        });
        let parted = async {
            flushed.await;
            let _ = socket2::SockRef::from(&self.tcp).shutdown(Shutdown::Write);
            self.carry().await
        };
        tokio::select! {
            _ = parted => {}
            () = sleep(within) => {}
        }
        self.end(TunnelError::Closed);
    }

    /// Ends the tunnel now; its streams learn why.
    pub(super) fn end(&self, over: TunnelError) {
        let mut core = self.core();
        if core.over.is_some() {
            return;
        }
        core.send_goaway(&over, &self.tcp);
        core.end(over);
    }

    fn poll_io(&self, cx: &mut Context<'_>) -> Poll<TunnelError> {
        let mut core = self.core();
        if let Some(over) = &core.over {
            return Poll::Ready(over.clone());
        }
        core.driver_runs(cx.waker());
        let moved = match self.poll_read(&mut core, cx) {
            Ok(()) => self.poll_write(&mut core, cx),
            failed => failed,
        };
        match moved {
            Ok(()) => Poll::Pending,
            Err(over) => {
                core.send_goaway(&over, &self.tcp);
                core.end(over.clone());
                Poll::Ready(over)
            }
        }
    }

    fn poll_write(&self, core: &mut Core, cx: &mut Context<'_>) -> Result<(), TunnelError> {
        loop {
            core.flush(&self.tcp)?;
            core.next_turns();
            if core.records.sealer.waiting() == 0 {
                return Ok(());
            }
            match self.tcp.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    core.full = Some(Instant::now());
                    return Ok(());
                }
            }
        }
    }

    fn poll_read(&self, core: &mut Core, cx: &mut Context<'_>) -> Result<(), TunnelError> {
        if !core.has_rest() && !self.is_readable(core, cx)? {
            core.reads_nothing();
            return Ok(());
        }
        if core.may_read(cx) {
            let again = self.read(core, cx)?;
            core.has_read(again, cx);
        }
        Ok(())
    }

    fn is_readable(&self, core: &Core, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        // What has not ended by now never will.
        if core.peer_closed {
            return Err(TunnelError::Closed);
        }
        match self.tcp.poll_read_ready(cx) {
            Poll::Ready(ready) => ready.map(|()| true).map_err(TunnelError::from),
            Poll::Pending => Ok(false),
        }
    }

    /// One turn; whether there is more to read.
    fn read(&self, core: &mut Core, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        core.next_turn()?;
        for _ in 0..TURNS {
            if core.turn_is_over() {
                break;
            }
            if !self.is_readable(core, cx)? {
                return Ok(false);
            }
            with_scratch(|buffer| {
                let most = core.next_read(buffer.len());
                let buffer = &mut buffer[..most];
                let have = core.partial.len();
                buffer[..have].copy_from_slice(&core.partial);
                let read = match self.tcp.try_read(&mut buffer[have..]) {
                    Ok(0) => return Err(ended(core.peer_closed)),
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(e) => return Err(e.into()),
                };
                if have + read < buffer.len() {
                    // There was no more: the read that would say so is saved.
                    sockets::not_ready(&self.tcp, Interest::READABLE);
                }
                core.received(&mut buffer[..have + read])?;
                if have + read == buffer.len() {
                    core.full = Some(core.heard);
                }
                Ok(())
            })?;
        }
        Ok(true)
    }
}

fn ended(orderly: bool) -> TunnelError {
    if orderly { TunnelError::Closed } else { RecordError::Truncated.into() }
}

#[cfg(test)]
mod tests;
