//! One end of a connection: its streams (RFC 9113 §5.1), and what we send.

use std::{collections::HashMap, time::Instant};

use super::{
    Limits, Role,
    budget::Budget,
    flow::{ReceiveWindow, SendWindow},
    frame::{Code, HEADER, Head, flag, kind, put},
    headers::{Block, MAX_LIST, put_headers},
    hpack,
    reader::{PREFACE, Reader},
};

/// A stream that is not over on both sides (RFC 9113 §5.1).
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    /// How much more than its first window may be held for it now.
    extra: u32,
    /// We have sent END_STREAM.
    pub(super) local_closed: bool,
    /// The peer has.
    pub(super) remote_closed: bool,
    /// The response was sent, or came.
    pub(super) answered: bool,
}

/// A DATA frame that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataFrame {
    pub(super) id: u32,
    /// It has END_STREAM.
    pub(super) ends: bool,
    pub(super) length: usize,
    /// How much of it was no payload so far.
    pub(super) left: usize,
}

/// What the peer allows us.
#[derive(Debug)]
pub(super) struct PeerSettings {
    pub(super) seen: bool,
    pub(super) initial_window: u32,
    pub(super) max_frame: usize,
    pub(super) max_streams: u32,
}

/// What is kept for each stream that is open. The peer chooses its IDs, but has few streams at
/// once: they need no hash that withstands an attack, and one is looked up for every frame.
pub(in crate::hbone) type ByStream<T> = HashMap<u32, T, foldhash::fast::RandomState>;

/// One end of one connection.
#[derive(Debug)]
pub struct Http2 {
    pub(super) role: Role,
    pub(super) limits: Limits,
    pub(super) reader: Reader,
    pub(super) hpack: hpack::Decoder,
    pub(super) block: Option<Block>,
    /// The DATA frame that is being read, if anybody wants it.
    pub(super) data: Option<DataFrame>,
    pub(super) streams: ByStream<Stream>,
    pub(super) peer: PeerSettings,
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    pub(super) next_local: u32,
    pub(super) last_peer: u32,
    /// The last stream that our GOAWAY promised to serve.
    pub(super) leaving: Option<u32>,
    pub(super) peer_leaving: bool,
    pub(super) budget: Budget,
    /// What may be on its way on streams that we ended and the peer had not.
    pub(super) late: u64,
    /// How much more than their first windows may be held for all streams together.
    extra: u32,
    /// No window grows beyond what is taken at once.
    tight: bool,
    /// Our first header block was sent.
    spoken: bool,
    /// Frames to be written, before any further DATA.
    control: Vec<u8>,
}

/// A table of streams with room for more than so many is not kept when it is empty.
pub(in crate::hbone) const FEW: usize = 16;
/// What waits to be answered may not grow beyond this: such a peer does not read.
const MAX_UNREAD: usize = 256 * 1024;
/// … but for the fields of our own requests or answers, about so much per stream.
const OWN_FIELDS: usize = 1024;
/// What all streams may hold beyond their first windows, or one by itself.
const MOST_EXTRA: u32 = 8 << 20;
/// The connection's window before anybody spoke (RFC 9113 §6.9.2).
const DEFAULT_WINDOW: u32 = 65_535;

impl Http2 {
    /// Begins a connection; the preface and SETTINGS wait in [`Http2::take_control`].
    #[must_use]
    pub fn new(role: Role, limits: Limits, now: Instant) -> Self {
        let mut control = Vec::with_capacity(96);
        if role == Role::Client {
            control.extend_from_slice(PREFACE);
        }
        let role_setting = match role {
            Role::Client => (2, 0),                  // ENABLE_PUSH
            Role::Server => (3, limits.max_streams), // MAX_CONCURRENT_STREAMS
        };
        let mut settings = Vec::new();
        for (id, value) in
            [role_setting, (4, limits.stream_window), (5, limits.max_frame), (6, MAX_LIST as u32)]
        {
            settings.extend_from_slice(&u16::to_be_bytes(id));
            settings.extend_from_slice(&u32::to_be_bytes(value));
        }
        put(&mut control, kind::SETTINGS, 0, 0, &settings);
        let window = limits.connection_window.max(DEFAULT_WINDOW);
        if let more @ 1.. = window - DEFAULT_WINDOW {
            put(&mut control, kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        Self {
            role,
            limits,
            reader: Reader::new(role == Role::Server, limits.max_frame as usize),
            hpack: hpack::Decoder::default(),
            block: None,
            data: None,
            streams: ByStream::default(),
            peer: PeerSettings {
                seen: false,
                initial_window: DEFAULT_WINDOW,
                max_frame: 16_384,
                max_streams: 100, // until it says
            },
            send: SendWindow::new(DEFAULT_WINDOW),
            receive: ReceiveWindow::new(window),
            next_local: 1,
            last_peer: 0,
            leaving: None,
            peer_leaving: false,
            budget: Budget::new(limits.flood, now),
            late: 0,
            extra: 0,
            tight: false,
            spoken: false,
            control,
        }
    }

    /// Frames that must be written before any further DATA.
    pub fn take_control(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.control)
    }

    /// Whether [`Http2::take_control`] would yield something.
    #[must_use]
    pub fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    pub(super) fn unread(&self) -> usize {
        self.control.len()
    }

    /// Whether more waits than piles up with a peer that reads.
    pub(super) fn is_unread(&self) -> bool {
        self.unread() > MAX_UNREAD + self.streams.len() * OWN_FIELDS
    }

    /// How many streams are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// How many more streams the peer lets us open; 0 once it leaves.
    #[must_use]
    pub fn room(&self) -> usize {
        let open = !self.peer_leaving && self.leaving.is_none() && self.next_local < 1 << 31;
        let most = if open { self.peer.max_streams as usize } else { 0 };
        most.saturating_sub(self.streams.len())
    }

    /// How many streams at once the peer allows.
    #[must_use]
    pub fn places(&self) -> usize {
        self.peer.max_streams as usize
    }

    /// Opens a stream with CONNECT (client). `None` if there is no [`Http2::room`].
    pub fn open(&mut self, authority: &str, fields: &[(&str, &str)]) -> Option<u32> {
        if self.room() == 0 {
            return None;
        }
        let id = self.next_local;
        self.next_local += 2;
        let connect = [(":method", "CONNECT"), (":authority", authority)];
        self.headers(id, false, &[&connect, fields].concat());
        self.insert(id, false);
        if self.limits.eager {
            self.widen(id);
        }
        Some(id)
    }

    /// Gives a fresh stream all that one may hold, as far as others leave room.
    fn widen(&mut self, id: u32) {
        let Limits { stream_window, stream_held, .. } = self.limits;
        let left = MOST_EXTRA.max(stream_held).saturating_sub(self.extra);
        let by = stream_held.saturating_sub(stream_window).min(left);
        let Some(stream) = self.streams.get_mut(&id).filter(|_| by > 0) else { return };
        stream.receive.widen(by);
        stream.extra = by;
        self.extra += by;
        put(&mut self.control, kind::WINDOW_UPDATE, 0, id, &by.to_be_bytes());
    }

    /// Answers a request (server); with `end` nothing follows and the rest of the request is
    /// not wanted.
    pub fn respond(&mut self, id: u32, status: u16, fields: &[(&str, &str)], end: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.answered = true;
        let remote_closed = stream.remote_closed;
        // What is too large is paid for where it is read. That an application cannot be reached is
        // nothing that the caller does.
        if (400..500).contains(&status) && status != 431 {
            self.budget.refused();
        }
        let status = status.to_string();
        self.headers(id, end, &[&[(":status", status.as_str())], fields].concat());
        if end && remote_closed {
            self.remove(id);
        } else if end {
            self.reset(id, Code::NO_ERROR); // RFC 9113 §8.1
        }
    }

    fn headers(&mut self, id: u32, end: bool, fields: &[(&str, &str)]) {
        let first = !std::mem::replace(&mut self.spoken, true);
        put_headers(&mut self.control, id, end, fields, self.peer.max_frame, first);
    }

    pub(super) fn insert(&mut self, id: u32, remote_closed: bool) {
        self.budget.opened();
        self.streams.insert(
            id,
            Stream {
                send: SendWindow::new(self.peer.initial_window),
                receive: ReceiveWindow::new(self.limits.stream_window),
                extra: 0,
                local_closed: false,
                remote_closed,
                answered: false,
            },
        );
    }

    /// How much one DATA frame of this stream may carry now.
    #[must_use]
    pub fn sendable(&self, id: u32) -> usize {
        let stream = self.streams.get(&id).filter(|s| !s.local_closed);
        let window = stream.map_or(0, |s| s.send.left().min(self.send.left()));
        window.min(self.peer.max_frame)
    }

    /// The header for a DATA frame of `length` bytes, at most [`Http2::sendable`].
    #[must_use]
    pub fn data_head(&mut self, id: u32, length: usize) -> [u8; HEADER] {
        debug_assert!(length <= self.sendable(id));
        self.send.used(length);
        self.budget.sent(length);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.used(length);
        }
        Head { length, kind: kind::DATA, flags: 0, stream: id }.write()
    }

    /// Says that nothing more comes on a stream.
    pub fn finish(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id).filter(|s| !s.local_closed) else { return };
        stream.local_closed = true;
        put(&mut self.control, kind::DATA, flag::END_STREAM, id, &[]);
        self.forget_if_over(id);
    }

    /// Ends a request that was not looked at (server). The next one pays for it.
    pub fn turn_away(&mut self, id: u32) {
        self.budget.refused();
        self.reset(id, Code::REFUSED_STREAM);
    }

    /// Says whether windows may grow, or only as much may be held as a fresh stream has.
    pub fn set_tight(&mut self, tight: bool) {
        self.tight = tight;
    }

    /// Ends a stream abruptly, if it is not over.
    pub fn reset(&mut self, id: u32, code: Code) {
        if let Some(stream) = self.remove(id) {
            if !stream.remote_closed {
                self.late += stream.receive.left();
            }
            self.put_reset(id, code);
        }
    }

    pub(super) fn put_reset(&mut self, id: u32, code: Code) {
        self.data = self.data.filter(|frame| frame.id != id);
        put(&mut self.control, kind::RST_STREAM, 0, id, &code.0.to_be_bytes());
    }

    pub(super) fn put_control(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        put(&mut self.control, kind, flags, stream, payload);
    }

    /// `bytes` of a stream have been taken: its sender may send as many again. `room` is what
    /// its application could take at once, asked only when credit is due: the window is never
    /// larger than that and [`Limits::stream_held`] together, so no more is ever held for it.
    /// Many streams share [`MOST_EXTRA`] beyond their first windows.
    pub fn release(&mut self, id: u32, bytes: usize, room: impl FnOnce() -> usize) {
        let Some(stream) = self.streams.get_mut(&id).filter(|s| !s.remote_closed) else { return };
        let Limits { stream_window, stream_held, stream_window_most, .. } = self.limits;
        let others = self.extra - stream.extra;
        let extra = if self.tight { 0 } else { MOST_EXTRA.max(stream_held) };
        let left = extra.saturating_sub(others);
        let held = stream_held.min(stream_window.saturating_add(left));
        let most = || {
            let room = u32::try_from(room()).unwrap_or(u32::MAX);
            held.saturating_add(room).min(stream_window_most.max(held))
        };
        if let Some(credit) = stream.receive.release(bytes, most) {
            stream.extra = stream.receive.size().min(held).saturating_sub(stream_window);
            self.extra = others + stream.extra;
            put(&mut self.control, kind::WINDOW_UPDATE, 0, id, &credit.to_be_bytes());
        }
    }

    pub(super) fn forget_if_over(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|s| s.local_closed && s.remote_closed) {
            self.remove(id);
        }
    }

    /// Forgets a stream; with the last one goes the room that many took.
    pub(super) fn remove(&mut self, id: u32) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        self.extra -= stream.extra;
        if self.streams.is_empty() && self.streams.capacity() > FEW {
            self.streams = ByStream::default();
        }
        Some(stream)
    }

    /// Asks whether the peer is there.
    pub fn ping(&mut self, opaque: [u8; 8]) {
        self.budget.pinged();
        put(&mut self.control, kind::PING, 0, 0, &opaque);
    }

    /// Says that this end goes: in order, first with `last_call`, which streams on their way
    /// still make, then without; or for an error.
    pub fn go_away(&mut self, code: Code, last_call: bool) {
        let last = if last_call { (1 << 31) - 1 } else { self.last_peer };
        let last = last.min(self.leaving.unwrap_or(last)); // §6.8: it never rises
        self.leaving = Some(last);
        let payload = [last.to_be_bytes(), code.0.to_be_bytes()].concat();
        put(&mut self.control, kind::GOAWAY, 0, 0, &payload);
    }

    /// Whether a stream of this number is one that this end opens (§5.1.1).
    #[must_use]
    pub fn opens(&self, id: u32) -> bool {
        id.is_multiple_of(2) != (self.role == Role::Client)
    }

    /// Whether this end has sent GOAWAY.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether the peer has.
    #[must_use]
    pub fn peer_is_leaving(&self) -> bool {
        self.peer_leaving
    }

    /// Whether the peer's SETTINGS have come.
    #[must_use]
    pub fn has_settings(&self) -> bool {
        self.peer.seen
    }
}
