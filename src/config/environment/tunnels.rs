//! Tunnels and their sockets, as the environment has them.

use std::{num::NonZeroU16, time::Duration};

use super::variables::Variables;

/// What is said of tunnels, and used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TunnelSettings {
    /// Streams of one pooled tunnel.
    pub max_streams: NonZeroU16,
    /// How long a pooled tunnel that nobody uses stays.
    pub idle: Duration,
    /// The HTTP/2 window of a tunnel, bytes.
    pub connection_window: u32,
}

impl TunnelSettings {
    pub(super) fn read(vars: &Variables) -> Self {
        look(vars);
        let streams = NonZeroU16::new(100).expect("a literal above 0");
        let idle = vars.duration("POOL_UNUSED_RELEASE_TIMEOUT");
        Self {
            max_streams: vars
                .parse("POOL_MAX_STREAMS_PER_CONNECTION", "1 to 65535")
                .unwrap_or(streams),
            idle: idle.unwrap_or(Duration::from_secs(300)),
            connection_window: bytes(vars, "HTTP2_CONNECTION_WINDOW_SIZE", 1, WINDOW)
                .unwrap_or(16 << 20),
        }
    }
}

/// Takes note of what is wrong with those that are not used: what is, is fixed.
fn look(vars: &Variables) {
    bytes(vars, "HTTP2_STREAM_WINDOW_SIZE", 1, WINDOW);
    bytes(vars, "HTTP2_FRAME_SIZE", 16_384, FRAME);
    for name in ["KEEPALIVE_ENABLED", "USER_TIMEOUT_ENABLED"] {
        vars.flag_if_set(name);
    }
    for name in ["KEEPALIVE_TIME", "KEEPALIVE_INTERVAL"] {
        vars.duration(name);
    }
    vars.parse::<u32>("KEEPALIVE_RETRIES", "a number, such as 9");
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
