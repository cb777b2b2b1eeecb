//! The optional sections of the mesh file, with their defaults.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use super::{reader::Map, restart::changed, sandbox};
use crate::{
    hbone::{CallerLimits, PeerExpiry, TunnelConfig},
    observe::logging::LogFormat,
    relay::Limits,
    sys::confine::Sandbox,
    tls::record::AeadSetting,
};

/// The keys of `limits`.
const LIMITS: &[&str] = &[
    "tunnels",
    "streams",
    "heldBytes",
    "windowBytes",
    "tunnelBytes",
    "floodBurst",
    "floodPerSecond",
    "callerTunnels",
    "callerStreams",
    "callerHeldBytes",
    "callerTunnelsPerSecond",
];

/// Where the admin endpoint listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AdminAddress {
    /// For all users of the machine, or of the network.
    Tcp(SocketAddr),
    /// A Unix socket, for the user of this process and root.
    Unix(PathBuf),
}

/// The longest path that a Unix socket can have.
const LONGEST_PATH: usize = 107;

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            None => {
                text.parse().map(Self::Tcp).map_err(|e: std::net::AddrParseError| e.to_string())
            }
            Some(path) if !path.starts_with('/') || path.contains('\0') => {
                Err("unix: must be followed by an absolute path".into())
            }
            Some(path) if path.len() > LONGEST_PATH => {
                Err(format!("the path of a Unix socket must have at most {LONGEST_PATH} bytes"))
            }
            Some(path) => Ok(Self::Unix(path.into())),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `tls: { aead: … }`, in a mesh file and in a file of services.
pub(super) fn aead(top: &Map<'_>) -> AeadSetting {
    let words =
        [("auto", AeadSetting::Auto), ("aws-lc", AeadSetting::AwsLc), ("ring", AeadSetting::Ring)];
    let tls = top.get("tls").map(|item| item.map(&["aead"]));
    tls.and_then(|tls| tls.require("aead")?.word(&words)).unwrap_or_default()
}

/// What is not about the mesh itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Admin endpoint; default `127.0.0.1:15000`.
    pub admin: AdminAddress,
    /// Metrics endpoint; default `[::]:15020`.
    pub metrics: SocketAddr,
    /// Readiness endpoint; default `[::]:15021`.
    pub readiness: SocketAddr,
    /// How long live connections may go on after SIGTERM; default 5 s.
    pub drain: Duration,
    /// How log lines look; default text.
    pub log_format: LogFormat,
    /// Data workers; default the larger of 2 and a quarter of the cores.
    pub workers: usize,
    /// How far the process confines itself.
    pub sandbox: Sandbox,
    /// How long a relay may be silent; by default for ever.
    pub limits: Limits,
    /// Crypto library for TLS records; default: the faster one on this machine.
    pub aead: AeadSetting,
    /// Limits and deadlines of tunnels.
    pub tunnel: TunnelConfig,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            admin: AdminAddress::Tcp(([127, 0, 0, 1], 15000).into()),
            metrics: ([0u16; 8], 15020).into(),
            readiness: ([0u16; 8], 15021).into(),
            drain: Duration::from_secs(5),
            log_format: LogFormat::Text,
            workers: (cores / 4).max(2),
            sandbox: Sandbox::default(),
            limits: Limits::default(),
            aead: AeadSetting::default(),
            tunnel: TunnelConfig::default(),
        }
    }
}

impl Settings {
    /// The keys of settings that differ in `now` and take effect only after a restart.
    #[must_use]
    pub fn restart_keys(&self, now: &Self) -> Vec<&'static str> {
        // Without `..`: of a setting that is added it has to be said what it is.
        #[rustfmt::skip]
        let Self {
            admin, metrics, readiness, drain: _, log_format, workers, sandbox, limits, aead, tunnel,
        } = self;
        let Limits { idle, half_closed } = limits;
        let all = [
            ("admin", *admin != now.admin),
            ("metrics", *metrics != now.metrics),
            ("readiness", *readiness != now.readiness),
            ("accessLog", *log_format != now.log_format),
            ("workers", *workers != now.workers),
            ("sandbox", *sandbox != now.sandbox),
            ("timeouts.idle", *idle != now.limits.idle),
            ("timeouts.close", *half_closed != now.limits.half_closed),
            ("tls.aead", *aead != now.aead),
        ];
        let mut keys = changed(&all);
        keys.extend(tunnel_keys(tunnel, &now.tunnel));
        keys
    }

    pub(super) fn read(top: &Map<'_>) -> Self {
        let mut settings = Self::default();
        let admin = top.get("admin").map(|item| item.map(&["address"]));
        if let Some(addr) = admin.and_then(|s| s.require("address")?.parse("127.0.0.1:15000")) {
            settings.admin = addr;
        }
        for (key, target, example) in [
            ("metrics", &mut settings.metrics, "[::]:15020"),
            ("readiness", &mut settings.readiness, "[::]:15021"),
        ] {
            let section = top.get(key).map(|item| item.map(&["address"]));
            if let Some(addr) = section.and_then(|s| s.require("address")?.parse(example)) {
                *target = addr;
            }
        }
        if let Some(section) = top.get("drain").map(|item| item.map(&["deadline"])) {
            settings.drain =
                section.require("deadline").and_then(|d| d.duration()).unwrap_or_default();
        }
        if let Some(section) = top.get("accessLog").map(|item| item.map(&["format"])) {
            let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
            settings.log_format =
                section.require("format").and_then(|f| f.word(&words)).unwrap_or_default();
        }
        if let Some(item) = top.get("workers") {
            match item.parse::<usize>("2") {
                Some(n) if (1..=256).contains(&n) => settings.workers = n,
                Some(_) => item.fault("expected 1 to 256"),
                None => {}
            }
        }
        settings.aead = aead(top);
        settings.sandbox = sandbox::read(top);
        settings.read_tunnel(top);
        settings.read_limits(top);
        settings.read_peer_expiry(top);
        settings
    }

    fn read_limits(&mut self, top: &Map<'_>) {
        let Some(section) = top.get("limits").map(|item| item.map(LIMITS)) else { return };
        let read = |key, range: RangeInclusive<u32>| {
            let item = section.get(key)?;
            let number = item.parse::<u32>("1000")?;
            if range.contains(&number) {
                return Some(number);
            }
            item.fault(format!("expected {} to {}", range.start(), range.end()));
            None
        };
        let http2 = &mut self.tunnel.limits;
        for (key, range, target) in [
            ("streams", 1..=100_000, &mut http2.max_streams),
            ("heldBytes", 64 << 10..=16 << 20, &mut http2.stream_held),
            ("windowBytes", 64 << 10..=16 << 20, &mut http2.stream_window_most),
            ("tunnelBytes", 64 << 10..=256 << 20, &mut http2.connection_window),
            ("floodBurst", 100..=10_000_000, &mut http2.flood.burst),
            ("floodPerSecond", 10..=10_000_000, &mut http2.flood.per_second),
        ] {
            *target = read(key, range).unwrap_or(*target);
        }
        let caller = &mut self.tunnel.caller;
        for (key, range, target) in [
            ("callerTunnels", 1..=1_000_000, &mut caller.tunnels),
            ("callerStreams", 1..=10_000_000, &mut caller.streams),
            ("callerHeldBytes", 1 << 20..=1 << 31, &mut caller.held),
        ] {
            *target = read(key, range).map_or(*target, |number| number as usize);
        }
        let rate = read("callerTunnelsPerSecond", 1..=1_000_000);
        caller.new_tunnels = rate.unwrap_or(caller.new_tunnels);
        if let Some(tunnels) = read("tunnels", 1..=1_000_000) {
            self.tunnel.max_tunnels = tunnels as usize;
        }
    }

    fn read_peer_expiry(&mut self, top: &Map<'_>) {
        self.tunnel.peer_expiry = peer_expiry(top);
    }

    fn read_tunnel(&mut self, top: &Map<'_>) {
        const TIMEOUTS: &[&str] = &["connect", "tls", "http2", "response", "idle", "close"];
        if let Some(section) = top.get("timeouts").map(|item| item.map(TIMEOUTS)) {
            for (key, target) in [
                ("connect", &mut self.tunnel.connect),
                ("tls", &mut self.tunnel.tls),
                ("http2", &mut self.tunnel.http2),
                ("response", &mut self.tunnel.response),
            ] {
                let Some(item) = section.get(key) else { continue };
                match item.duration() {
                    Some(d) if d < Duration::from_millis(10) => item.fault("must be at least 10ms"),
                    Some(d) => *target = d,
                    None => {}
                }
            }
            if let Some(item) = section.get("idle") {
                self.limits.idle = item.duration();
                if self.limits.idle.is_some_and(|d| d < Duration::from_secs(1)) {
                    item.fault("must be at least 1s; leave it out for no limit");
                }
            }
            if let Some(item) = section.get("close") {
                self.limits.half_closed = item.duration();
                if self.limits.half_closed.is_some_and(|d| d < Duration::from_secs(1)) {
                    item.fault("must be at least 1s; leave it out for no limit");
                }
            }
        }
        if let Some(section) = top.get("pool").map(|item| item.map(&["maxStreams", "idle"])) {
            if let Some(item) = section.get("maxStreams") {
                match item.parse::<usize>("100") {
                    Some(n) if (1..=100_000).contains(&n) => self.tunnel.max_streams = n,
                    Some(_) => item.fault("expected 1 to 100000"),
                    None => {}
                }
            }
            if let Some(item) = section.get("idle") {
                match item.duration() {
                    Some(idle) if idle < Duration::from_secs(1) => {
                        item.fault("must be at least 1s")
                    }
                    Some(idle) => self.tunnel.idle = idle,
                    None => {}
                }
            }
        }
    }
}

/// `peerExpiry: { grace: 5m }`, or `keep`, which is the default.
pub(super) fn peer_expiry(map: &Map<'_>) -> PeerExpiry {
    let section = map.get("peerExpiry").map(|item| item.map(&["grace"]));
    let Some(item) = section.and_then(|section| section.require("grace")) else {
        return PeerExpiry::Keep;
    };
    match item.text().as_deref() {
        Some("keep") | None => PeerExpiry::Keep,
        Some(_) => item.duration().map_or(PeerExpiry::Keep, PeerExpiry::Grace),
    }
}

/// Those of the sections `timeouts`, `pool`, `limits` and `peerExpiry`.
fn tunnel_keys(then: &TunnelConfig, now: &TunnelConfig) -> Vec<&'static str> {
    // Without `..` here too; what no file can set is `_`.
    #[rustfmt::skip]
    let TunnelConfig {
        connect, tls, http2, response, max_streams, max_tunnels, caller, limits, idle, peer_expiry,
        keepalive: _, marked: _,
    } = then;
    let CallerLimits { tunnels, streams, held, new_tunnels } = caller;
    let (of_caller, of_peer) = (&now.caller, &now.limits);
    changed(&[
        ("timeouts.connect", *connect != now.connect),
        ("timeouts.tls", *tls != now.tls),
        ("timeouts.http2", *http2 != now.http2),
        ("timeouts.response", *response != now.response),
        ("pool.maxStreams", *max_streams != now.max_streams),
        ("pool.idle", *idle != now.idle),
        ("limits.tunnels", *max_tunnels != now.max_tunnels),
        ("limits.streams", limits.max_streams != of_peer.max_streams),
        ("limits.heldBytes", limits.stream_held != of_peer.stream_held),
        ("limits.windowBytes", limits.stream_window_most != of_peer.stream_window_most),
        ("limits.tunnelBytes", limits.connection_window != of_peer.connection_window),
        ("limits.floodBurst", limits.flood.burst != of_peer.flood.burst),
        ("limits.floodPerSecond", limits.flood.per_second != of_peer.flood.per_second),
        ("limits.callerTunnels", *tunnels != of_caller.tunnels),
        ("limits.callerStreams", *streams != of_caller.streams),
        ("limits.callerHeldBytes", *held != of_caller.held),
        ("limits.callerTunnelsPerSecond", *new_tunnels != of_caller.new_tunnels),
        ("peerExpiry", *peer_expiry != now.peer_expiry),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_endpoint_is_an_address_or_an_absolute_path() {
        for text in ["127.0.0.1:15000", "[::1]:1", "unix:/run/adit/admin.sock"] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), text);
        }
        let long = format!("unix:/{}", "a".repeat(LONGEST_PATH));
        for text in ["", "15000", "localhost:1", "unix:", "unix:admin.sock", "unix:@a", &long] {
            text.parse::<AdminAddress>().unwrap_err();
        }
    }
}
