//! What a file of `adit proxy` says of its process, beside the services.

use std::{path::PathBuf, time::Duration};

use super::values::{TRUTH, number};
use crate::{
    config::{
        opening::{self, Holds},
        reader::{Item, Map},
        restart::changed,
        sandbox, settings,
    },
    net::Address,
    observe::logging::LogFormat,
    roles::standalone::status::StatusConfig,
    sys::confine::Sandbox,
    tls::record::AeadSetting,
};

/// What concerns the process, whether flags or a file say it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Globals {
    /// How long connections may go on after SIGTERM.
    pub shutdown: Duration,
    /// Interval at which files are reloaded, in addition to watching them.
    pub timed_reload: Option<Duration>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Log lines go to syslog instead of stdout.
    pub syslog: bool,
    /// Data workers; one per core if not given.
    pub workers: Option<usize>,
    /// Crypto library for TLS records; default: the faster one on this machine.
    pub aead: AeadSetting,
    /// What operators see.
    pub status: StatusConfig,
    /// The socket at which processes take over from each other.
    pub takeover: Option<PathBuf>,
    /// How far the process confines itself.
    pub sandbox: Sandbox,
}

impl Globals {
    /// The keys of settings that differ in `now` and take effect only after a restart.
    #[must_use]
    pub fn restart_keys(&self, now: &Self) -> Vec<&'static str> {
        // Without `..`: of a setting that is added it has to be said what it is.
        #[rustfmt::skip]
        let Self {
            shutdown: _, timed_reload, log_format, syslog, workers, aead, status, takeover, sandbox,
        } = self;
        let StatusConfig { address, shutdown, prefix, graphite, url, every, roots } = status;
        let of_status = &now.status;
        changed(&[
            ("accessLog", *log_format != now.log_format),
            ("workers", *workers != now.workers),
            ("sandbox", *sandbox != now.sandbox),
            ("status.listen", *address != of_status.address),
            ("status.shutdown", *shutdown != of_status.shutdown),
            ("metrics.prefix", *prefix != of_status.prefix),
            ("metrics.graphite", *graphite != of_status.graphite),
            ("metrics.url", *url != of_status.url),
            ("metrics.interval", *every != of_status.every),
            ("metrics.roots", *roots != of_status.roots),
            ("timedReload", *timed_reload != now.timed_reload),
            ("syslog", *syslog != now.syslog),
            ("takeover", *takeover != now.takeover),
            ("tls.aead", *aead != now.aead),
        ])
    }
}

pub(super) const KEYS: &[&str] = &[
    "services",
    "drain",
    "accessLog",
    "workers",
    "tls",
    "sandbox",
    "status",
    "metrics",
    "timedReload",
    "syslog",
    "takeover",
];

pub(super) fn globals(top: &Map<'_>) -> Globals {
    let section = |key: &str, known| top.get(key).map(|item: Item<'_>| item.map(known));
    let drain = section("drain", &["deadline"]).and_then(|d| d.require("deadline")?.duration());
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let log_format = section("accessLog", &["format"])
        .and_then(|l| l.require("format")?.word(&formats))
        .unwrap_or_default();
    let takeover = top.get("takeover").and_then(|item| {
        match item.parse::<Address>("unix:/run/adit/takeover.sock")? {
            Address::Unix(path) => Some(path),
            _ => {
                item.fault("must be unix:PATH");
                None
            }
        }
    });
    Globals {
        shutdown: drain.unwrap_or(Duration::from_secs(300)),
        timed_reload: top.get("timedReload").and_then(|t| t.duration()),
        log_format,
        syslog: top.get("syslog").and_then(|s| s.word(&TRUTH)).unwrap_or(false),
        workers: top.get("workers").and_then(|w| number(&w, 1024)),
        aead: settings::aead(top),
        status: status(top),
        takeover,
        sandbox: sandbox::read(top),
    }
}

/// `status: { listen: …, shutdown: true }`, `metrics: { prefix, graphite, url, interval, roots }`
fn status(top: &Map<'_>) -> StatusConfig {
    let default = StatusConfig::default();
    let status = top.get("status").map(|s| s.map(&["listen", "shutdown"]));
    let listen = status.as_ref().and_then(|s| s.require("listen")?.parse("localhost:6060"));
    let stop = status.as_ref().and_then(|s| s.get("shutdown")?.word(&TRUTH)).unwrap_or(false);
    let known = &["prefix", "graphite", "url", "interval", "roots"];
    let Some(metrics) = top.get("metrics").map(|m| m.map(known)) else {
        return StatusConfig { address: listen, shutdown: stop, ..default };
    };
    let every = metrics.get("interval").and_then(|i| {
        let every = i.duration()?;
        if every.is_zero() {
            i.fault("must not be 0");
        }
        Some(every)
    });
    StatusConfig {
        address: listen,
        shutdown: stop,
        prefix: metrics.get("prefix").and_then(|p| p.text()).unwrap_or(default.prefix),
        graphite: metrics.get("graphite").and_then(|g| g.parse("localhost:2003")),
        url: metrics.get("url").and_then(|u| u.parse("https://metrics.example.org/adit")),
        every: every.unwrap_or(default.every),
        roots: metrics.get("roots").and_then(|r| opening::path(&r, Holds::Certificates)),
    }
}
