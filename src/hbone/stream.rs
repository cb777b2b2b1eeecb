//! One CONNECT stream as the far side of a relay.
//!
//! Up: a read of the application's socket lands where its record will be, behind a DATA
//! header. Down: the driver writes to the application's socket as records are opened; what
//! that does not take waits here, at most the stream's window, and only what has been taken
//! is credited: a slow application holds back its own sender and nobody else.
//!
//! What a stream knows of its peer (the answer, the end, a reset) is set by the driver of its
//! tunnel as frames come, which then wakes the stream; reading this file one need not know how
//! frames become records ([`super::core`]).

use std::{
    future::poll_fn,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use super::{
    callers::StreamPlace,
    core::{AppSink, Core, Stream, TunnelError},
    driver::Tunnel,
    http2::Code,
    order::StreamSlot,
};
use crate::{
    lifecycle::behind_others,
    net::CloseReason,
    observe::conn::{LiveConn, Meter},
    relay::{App, Broken, Remote, Withdrawn, buffers},
    sys::sockets,
    tls::record::MOST_READ,
};

/// A stream of a tunnel. Dropping it before both directions have ended resets it.
pub struct TunnelStream {
    tunnel: Arc<Tunnel>,
    id: u32,
    /// How much is read from the application at once.
    size: usize,
    slot: Option<StreamSlot>,
    /// Its caller's (server).
    place: Option<StreamPlace>,
    /// What the application said before the stream was open, while the window had no room.
    held: Vec<u8>,
    /// The peer may end both directions by CONNECT_ERROR: see [`TunnelStream::through_proxy`].
    by_proxy: bool,
    /// The record of what it carries, which says why it was cut (server).
    record: Option<Arc<LiveConn>>,
}

const SMALLEST: usize = 4 * 1024;
/// How many reads in a row before others get their turn.
const TURNS: usize = 4;

/// Why no answer came.
#[derive(Debug)]
pub(super) struct NoAnswer {
    pub(super) why: String,
    /// The peer did not process the request.
    pub(super) unprocessed: bool,
}

impl TunnelStream {
    pub(super) fn new(tunnel: Arc<Tunnel>, id: u32) -> Self {
        let (size, by_proxy, held) = (SMALLEST, false, Vec::new());
        Self { tunnel, id, size, slot: None, place: None, held, by_proxy, record: None }
    }

    pub(super) fn holding(mut self, slot: StreamSlot) -> Self {
        self.slot = Some(slot);
        self
    }

    pub(super) fn of(mut self, caller: StreamPlace) -> Self {
        self.place = Some(caller);
        self
    }

    /// Whoever cuts `record` has the caller told why, if that is its business.
    #[must_use]
    pub fn recorded(mut self, record: &Arc<LiveConn>) -> Self {
        self.record = Some(Arc::clone(record));
        self
    }

    /// The peer is a proxy that ends the application's protocol, as a waypoint does. Envoy says
    /// CONNECT_ERROR wherever the end of a connection inside it is one in both directions: at every
    /// answer with `Connection: close`, and when its own call was cut. The protocol tells the two
    /// apart, and the stream does not, so the application has all that came, and an end of file.
    /// A tunnel that breaks is a reset still.
    #[must_use]
    pub fn through_proxy(mut self) -> Self {
        self.by_proxy = true;
        self
    }

    /// What a reset of ours says, where it is no more than `else_code` says. RFC 9113 has no word
    /// for an admission that was taken back; who knows no better takes that for a reset.
    fn code(&self, else_code: Code) -> Code {
        match self.record.as_ref().and_then(|record| record.was_cut()) {
            Some(
                CloseReason::PolicyChanged
                | CloseReason::SvidExpired
                | CloseReason::SvidRevoked
                | CloseReason::IdentityBanned
                | CloseReason::TrustDomainRemoved
                | CloseReason::UntrustedSvid,
            ) => Code::INADEQUATE_SECURITY,
            _ => else_code,
        }
    }

    /// Has this sent before anything that is read later.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.held = bytes.to_vec();
    }

    /// Waits for the answer to CONNECT. Cancel safe.
    pub(super) async fn status(&mut self) -> Result<u16, NoAnswer> {
        poll_fn(|cx| {
            let mut core = self.tunnel.core();
            let over = core.over.clone();
            let Some(stream) = core.streams.get_mut(&self.id) else {
                return Poll::Ready(Err(no_answer(None, over)));
            };
            if let Some(status) = stream.status {
                return Poll::Ready(Ok(status));
            }
            if over.is_some() || stream.reset.is_some() || stream.ended {
                return Poll::Ready(Err(no_answer(Some(stream), over)));
            }
            stream.task = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Answers CONNECT (server).
    pub(super) fn respond(&mut self, status: u16, fields: &[(&str, &str)], end: bool) -> bool {
        let mut core = self.tunnel.core();
        let live = core.streams.get(&self.id).is_some_and(|s| s.reset.is_none());
        if core.over.is_some() || !live {
            return false;
        }
        core.http2.respond(self.id, status, fields, end);
        core.wake_driver();
        true
    }

    /// Says that the request was not looked at (server).
    pub(super) fn turn_away(self) {
        let mut core = self.tunnel.core();
        core.http2.turn_away(self.id);
        core.wake_driver();
    }

    /// Waits until the peer resets the stream or the tunnel is over. Cancel safe.
    pub(super) async fn abandoned(&mut self) {
        poll_fn(|cx| {
            let mut core = self.tunnel.core();
            let over = core.over.is_some();
            let Some(stream) = core.streams.get_mut(&self.id) else { return Poll::Ready(()) };
            if over || stream.reset.is_some() {
                return Poll::Ready(());
            }
            stream.task = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Reads the application once. `true`: it has ended, or nobody wants more of it.
    fn poll_up_once(
        &mut self,
        core: &mut Core,
        cx: &mut Context<'_>,
        app: &mut App,
        meter: &Meter,
    ) -> Poll<Result<bool, Broken>> {
        let id = self.id;
        if let Some(over) = &core.over {
            return Poll::Ready(Err(Broken::Remote(lost(over))));
        }
        let stream = sound(core, (id, self.by_proxy), cx).map_err(Broken::Remote)?;
        if stream.unwanted {
            core.leave_line(id);
            return Poll::Ready(Ok(true));
        }
        if self.held.is_empty() {
            ready!(app.socket().poll_read_ready(cx)).map_err(Broken::App)?;
        }
        let Some(turn) = core.turn(id) else { return Poll::Pending };
        let moved = self.take_turn(core, app, meter, turn);
        core.next_turns();
        moved
    }

    fn take_turn(
        &mut self,
        core: &mut Core,
        app: &mut App,
        meter: &Meter,
        turn: usize,
    ) -> Poll<Result<bool, Broken>> {
        let id = self.id;
        let room = core.http2.sendable(id).min(turn);
        if room == 0 {
            return Poll::Pending; // a WINDOW_UPDATE wakes this task
        }
        if !self.held.is_empty() {
            let part = self.held.len().min(room);
            core.send(id, &self.held[..part]).map_err(|e| Broken::Remote(lost(&e)))?;
            self.held.drain(..part);
            core.wake_driver();
            return Poll::Ready(Ok(false));
        }
        let most = self.size.min(room);
        core.seal_control().map_err(|e| Broken::Remote(lost(&e)))?;
        let Core { records, http2, .. } = core;
        records.sealer.lend(buffers::take);
        let mut asked = 0;
        let got = records.sealer.fill(
            most,
            |places| {
                asked = places.iter().map(|p| p.len()).sum();
                app.socket().try_read_vectored(places)
            },
            |n| http2.data_head(id, n),
        );
        match got {
            Ok(0) => {
                core.http2.finish(id);
                core.wake_driver();
                return Poll::Ready(Ok(true));
            }
            Ok(n) => {
                meter.up.fetch_add(n as u64, Relaxed);
                if n < asked {
                    app.drained();
                }
                self.size = match n {
                    n if n >= self.size => (self.size * 4).min(MOST_READ),
                    n if n < self.size / 8 => (self.size / 2).max(SMALLEST),
                    _ => self.size,
                };
                core.wake_driver();
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Poll::Ready(Err(Broken::Remote(e)));
            }
            Err(e) => return Poll::Ready(Err(Broken::App(e))),
        }
        Poll::Ready(Ok(false))
    }
}

impl Remote for TunnelStream {
    fn poll_up(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        meter: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>> {
        let tunnel = Arc::clone(&self.tunnel);
        let mut core = tunnel.core();
        for _ in 0..TURNS {
            if ready!(self.poll_up_once(&mut core, cx, app, meter))? {
                return Poll::Ready(Ok(()));
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
        let mut core = self.tunnel.core();
        let id = self.id;
        loop {
            let stream = match sound(&mut core, (id, self.by_proxy), cx) {
                Ok(stream) => stream,
                Err(e) => {
                    // What came before a reset is still the application's, if it can take it.
                    if let Some(stream) = core.streams.get_mut(&id) {
                        let rest = stream.queue.make_contiguous();
                        let _ = socket2::SockRef::from(&**app.socket()).send(rest);
                    }
                    return Poll::Ready(Err(Broken::Remote(e)));
                }
            };
            if let Some(error) = stream.app_error.take() {
                return Poll::Ready(Err(Broken::App(error)));
            }
            if stream.outlet.is_none() {
                let (socket, meter) = (Arc::clone(app.socket()), Arc::clone(meter));
                stream.outlet = Some(AppSink { socket, meter });
            }
            let (front, _) = stream.queue.as_slices();
            if front.is_empty() {
                stream.queue = Default::default();
                return if stream.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            let n = ready!(app.poll_write(cx, front)).map_err(Broken::App)?;
            stream.queue.drain(..n);
            core.queue_shrank(n);
            meter.down.fetch_add(n as u64, Relaxed);
            core.http2.release(id, n, || sockets::send_room(app.socket()));
            core.wake_driver();
        }
    }

    /// As RFC 9113 §8.5 has it for a TCP connection that was reset: CANCEL is an end in order for
    /// some.
    fn abort(&mut self) {
        let code = self.code(Code::CONNECT_ERROR);
        let mut core = self.tunnel.core();
        core.http2.reset(self.id, code);
        core.wake_driver();
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let code = self.code(Code::CANCEL);
        let mut core = self.tunnel.core();
        core.forget(self.id);
        core.http2.reset(self.id, code); // nothing, if it is over
        core.wake_driver();
    }
}

/// The stream, if it still lives; whoever asks is woken when that changes.
fn sound<'a>(
    core: &'a mut Core,
    (id, by_proxy): (u32, bool),
    cx: &Context<'_>,
) -> io::Result<&'a mut Stream> {
    let over = core.over.clone();
    let Some(stream) = core.streams.get_mut(&id) else {
        return Err(io::ErrorKind::ConnectionReset.into());
    };
    if let Some(why) = stream.stopped {
        return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
    }
    if by_proxy && stream.reset == Some(Code::CONNECT_ERROR) {
        (stream.reset, stream.ended, stream.unwanted) = (None, true, true);
    }
    if let Some(code) = stream.reset {
        if code == Code::INADEQUATE_SECURITY {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, Withdrawn));
        }
        let why = format!("the tunnel stream was reset with {code:?}");
        return Err(io::Error::new(io::ErrorKind::ConnectionReset, why));
    }
    // What had come in full before the tunnel ended is still handed over.
    if let Some(over) = over
        && !stream.ended
    {
        return Err(lost(&over));
    }
    match &mut stream.task {
        Some(known) if known.will_wake(cx.waker()) => {}
        known => *known = Some(cx.waker().clone()),
    }
    Ok(stream)
}

fn lost(over: &TunnelError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, format!("the tunnel ended: {over}"))
}

fn no_answer(stream: Option<&mut Stream>, over: Option<TunnelError>) -> NoAnswer {
    let (reset, unprocessed) = stream.map_or((None, false), |s| (s.reset, s.unprocessed));
    let why = match (reset, over) {
        (Some(code), _) => format!("the stream was reset with {code:?}"),
        (None, Some(over)) => format!("the tunnel ended: {over}"),
        (None, None) => "the stream ended without a response".to_owned(),
    };
    NoAnswer { why, unprocessed }
}
