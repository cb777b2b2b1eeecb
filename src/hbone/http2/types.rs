//! What an end and its owner say to each other: which end it is, its limits, its events.

use std::ops::Range;

use super::{Code, FloodLimits, Request};

/// Which end this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Opens streams.
    Client,
    /// Takes them.
    Server,
}

/// What this end allows its peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// What a fresh stream may send before it is read.
    pub stream_window: u32,
    /// The most that a stalled stream may hold in memory.
    pub stream_held: u32,
    /// Whether a stream that we open may fill that from the start, as far as others leave room.
    pub eager: bool,
    /// What its window may grow to while the application has room for it.
    pub stream_window_most: u32,
    /// The flow-control window of the connection; given back on arrival, as streams are bounded.
    pub connection_window: u32,
    /// The largest DATA frame.
    pub max_frame: u32,
    /// Streams open at once (server).
    pub max_streams: u32,
    /// Work for nothing.
    pub flood: FloodLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_window: 64 << 10,
            stream_held: 256 << 10,
            eager: false,
            stream_window_most: 4 << 20,
            connection_window: 16 << 20,
            max_frame: 1 << 20,
            max_streams: 200,
            flood: FloodLimits::default(),
        }
    }
}

/// What [`super::Http2::receive`] found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A new stream (server).
    Request {
        /// Its number.
        id: u32,
        /// What it asks.
        request: Request,
        /// Nothing more comes.
        end: bool,
    },
    /// The answer to one (client).
    Response {
        /// Which.
        id: u32,
        /// `:status`.
        status: u16,
        /// Nothing more comes.
        end: bool,
    },
    /// Bytes of a stream, where they lie in the input. They must be released.
    Data {
        /// Which.
        id: u32,
        /// Where.
        range: Range<usize>,
        /// Nothing more comes.
        end: bool,
    },
    /// A stream is over, by the peer's will or its fault; it is forgotten here.
    Reset {
        /// Which.
        id: u32,
        /// Why.
        code: Code,
    },
    /// There may be room to send: on one stream, or on all.
    Window(Option<u32>),
    /// The peer's limits are known now, or have changed.
    Settings,
    /// The peer opens and takes no further streams; those of ours above `last` it did not see.
    GoAway {
        /// The last it took.
        last: u32,
        /// Why.
        code: Code,
    },
    /// The answer to a PING.
    Pong([u8; 8]),
}
