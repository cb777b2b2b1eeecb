//! Tunnels and their sockets, as the environment has them.

use std::{fmt::Display, num::NonZeroU16, time::Duration};

use super::variables::Variables;
use crate::{proxy::original_port::OriginalPortHbone, sys::sockets::Keepalive};

/// What is said of tunnels, and used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TunnelSettings {
    /// Streams of one pooled tunnel.
    pub max_streams: NonZeroU16,
    /// How long a pooled tunnel that nobody uses stays.
    pub idle: Duration,
    /// The HTTP/2 window of a tunnel, bytes.
    pub connection_window: u32,
    /// What the window of a stream may grow to.
    pub stream_window_most: u32,
    /// The longest frame.
    pub max_frame: u32,
    /// Probes of TCP.
    pub keepalive: Keepalive,
    /// Whether they go to applications' own ports.
    pub original_port: OriginalPortHbone,
}

impl TunnelSettings {
    pub(super) fn read(vars: &Variables) -> Self {
        vars.flag_if_set("USER_TIMEOUT_ENABLED");
        let streams = NonZeroU16::new(100).expect("a literal above 0");
        let idle = vars.duration("POOL_UNUSED_RELEASE_TIMEOUT");
        Self {
            max_streams: vars
                .parse("POOL_MAX_STREAMS_PER_CONNECTION", "1 to 65535")
                .unwrap_or(streams),
            idle: idle.unwrap_or(Duration::from_secs(300)),
            connection_window: bytes(vars, "HTTP2_CONNECTION_WINDOW_SIZE", 1, WINDOW)
                .unwrap_or(16 << 20),
            stream_window_most: bytes(vars, "HTTP2_STREAM_WINDOW_SIZE", 1, WINDOW).map_or(
                4 << 20,
                |asked| {
                    let why = ": adit sizes windows itself within this range";
                    within(vars, "HTTP2_STREAM_WINDOW_SIZE", asked, (256 << 10, 16 << 20), why)
                },
            ),
            max_frame: bytes(vars, "HTTP2_FRAME_SIZE", LEAST_FRAME, FRAME).map_or(
                1 << 20,
                |asked| {
                    let why = ": the allowed range";
                    within(vars, "HTTP2_FRAME_SIZE", asked, (LEAST_FRAME, 1 << 20), why)
                },
            ),
            keepalive: keepalive(vars),
            original_port: vars
                .parse("ADIT_ORIGINAL_PORT_HBONE", "off, accept or send")
                .unwrap_or_default(),
        }
    }
}

fn keepalive(vars: &Variables) -> Keepalive {
    let usual = Keepalive::default();
    let time = |name| {
        let seconds = vars.duration(name).map(|asked| asked.as_secs());
        seconds.map(|seconds| {
            let used = within(vars, name, seconds, (1, 32_767), " s: Linux accepts 1 to 32767 s");
            Duration::from_secs(used)
        })
    };
    let retries = vars.parse("KEEPALIVE_RETRIES", "a number, such as 9");
    let most =
        |asked| within(vars, "KEEPALIVE_RETRIES", asked, (1, 127), ": Linux accepts 1 to 127");
    Keepalive {
        enabled: vars.flag("KEEPALIVE_ENABLED", usual.enabled),
        time: time("KEEPALIVE_TIME").unwrap_or(usual.time),
        interval: time("KEEPALIVE_INTERVAL").unwrap_or(usual.interval),
        retries: retries.map_or(usual.retries, most),
    }
}

/// The nearest value that is used, and a warning if another was asked for.
fn within<T: Ord + Copy + Display>(
    vars: &Variables,
    name: &str,
    asked: T,
    (least, most): (T, T),
    why: &str,
) -> T {
    let used = asked.clamp(least, most);
    if used != asked {
        vars.warn(format!("{name}: using {used} instead of {asked}{why}"));
    }
    used
}

/// RFC 9113 §6.9.1.
const WINDOW: u32 = (1 << 31) - 1;
/// RFC 9113 §6.5.2.
const LEAST_FRAME: u32 = 1 << 14;
const FRAME: u32 = (1 << 24) - 1;

fn bytes(vars: &Variables, name: &str, least: u32, most: u32) -> Option<u32> {
    let expected = format!("{least} to {most} bytes");
    let value: u32 = vars.parse(name, &expected)?;
    if !(least..=most).contains(&value) {
        vars.fault(name, &expected);
    }
    Some(value)
}
