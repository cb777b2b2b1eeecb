//! Tunnels and their sockets, as the environment has them.

use std::{num::NonZeroU16, time::Duration};

use super::variables::Variables;
use crate::proxy::original_port::OriginalPortHbone;

/// What is said of tunnels.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TunnelSettings {
    /// Streams of one pooled tunnel.
    pub max_streams: NonZeroU16,
    /// How long a pooled tunnel that nobody uses stays.
    pub idle: Duration,
    /// HTTP/2.
    pub http2: Http2Settings,
    /// Probes of TCP.
    pub keepalive: Keepalive,
    /// Whether unacknowledged bytes end a connection as late as unanswered probes do.
    pub user_timeout: bool,
    /// Whether they go to applications' own ports.
    pub original_port: OriginalPortHbone,
}

/// HTTP/2, bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Http2Settings {
    /// The window of a stream.
    pub stream_window: u32,
    /// The window of a tunnel.
    pub connection_window: u32,
    /// The longest frame.
    pub frame: u32,
}

/// Probes of TCP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keepalive {
    /// Whether there are any.
    pub enabled: bool,
    /// From the last byte to the first probe.
    pub time: Duration,
    /// From probe to probe.
    pub interval: Duration,
    /// How many may stay unanswered.
    pub retries: u32,
}

impl TunnelSettings {
    pub(super) fn read(vars: &Variables) -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let streams = NonZeroU16::new(100).expect("a literal above 0");
        Self {
            max_streams: vars
                .parse("POOL_MAX_STREAMS_PER_CONNECTION", "1 to 65535")
                .unwrap_or(streams),
            idle: vars.duration("POOL_UNUSED_RELEASE_TIMEOUT").unwrap_or(minutes(5)),
            http2: Http2Settings {
                stream_window: bytes(vars, "HTTP2_STREAM_WINDOW_SIZE", 1, WINDOW)
                    .unwrap_or(4 << 20),
                connection_window: bytes(vars, "HTTP2_CONNECTION_WINDOW_SIZE", 1, WINDOW)
                    .unwrap_or(16 << 20),
                frame: bytes(vars, "HTTP2_FRAME_SIZE", 16_384, FRAME).unwrap_or(1 << 20),
            },
            keepalive: Keepalive {
                enabled: vars.flag("KEEPALIVE_ENABLED", true),
                time: vars.duration("KEEPALIVE_TIME").unwrap_or(minutes(3)),
                interval: vars.duration("KEEPALIVE_INTERVAL").unwrap_or(minutes(3)),
                retries: vars.parse("KEEPALIVE_RETRIES", "a number, such as 9").unwrap_or(9),
            },
            user_timeout: vars.flag("USER_TIMEOUT_ENABLED", false),
            original_port: vars
                .parse("ADIT_ORIGINAL_PORT_HBONE", "off, accept or send")
                .unwrap_or_default(),
        }
    }
}

/// RFC 9113 §6.9.1.
const WINDOW: u32 = (1 << 31) - 1;
/// RFC 9113 §6.5.2.
const FRAME: u32 = (1 << 24) - 1;

fn bytes(vars: &Variables, name: &str, least: u32, most: u32) -> Option<u32> {
    let expected = format!("{least} to {most} bytes");
    let value: u32 = vars.parse(name, &expected)?;
    if !(least..=most).contains(&value) {
        vars.fault(name, &expected);
    }
    Some(value)
}
