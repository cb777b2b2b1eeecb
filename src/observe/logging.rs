//! Log lines on stdout or to syslog, as text or JSON, with a filter that can be changed while
//! running.
//!
//! Writing happens on a thread of its own behind a bounded queue: a reader that stalls
//! loses lines and delays no connection.

use std::{
    fmt,
    io::{self, Write},
    path::Path,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{
        MakeWriter,
        format::JsonFields,
        time::{FormatTime, UtcTime},
    },
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use super::{
    istio_log,
    log_filter::parsed,
    syslog::{DEV_LOG, Prioritised, Syslog},
};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
    /// Text as tools for Istio's ambient mesh split it.
    Istio,
    /// JSON with their keys.
    IstioJson,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" | "plain" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?}: must be text or json")),
        }
    }
}

/// Writes many lines at once: after a write the writer's thread rests for a moment, in which
/// lines gather, instead of being woken for each.
struct Gathering(Vec<u8>);

/// What is written at once at most.
const GATHERED: usize = 64 * 1024;
/// How long lines gather.
const REST: Duration = Duration::from_millis(2);

impl io::Write for Gathering {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.len() + line.len() > GATHERED {
            self.write_out()?;
        }
        self.0.extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()?;
        std::thread::sleep(REST);
        Ok(())
    }
}

impl Gathering {
    fn write_out(&mut self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(&self.0).and_then(|()| stdout.flush());
        self.0.clear();
        written
    }
}

/// Lines wait in a bounded queue for a thread that writes; those that find it full are lost.
fn queue(sink: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().buffered_lines_limit(65_536).finish(sink)
}

/// What the filter of an ambient node begins with: whoever answers DNS has nothing to say to
/// operators. Tools show this text.
pub const QUIET: &str = "hickory_server::server=off";
const QUIET_DEFAULT: &str = "hickory_server::server=off,info";

/// The running log: changes the filter, and flushes when dropped.
#[derive(Clone)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    /// What a restored filter is.
    default: &'static str,
    dropped: ErrorCounter,
    _writer: Arc<WorkerGuard>,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logging({})", self.filter())
    }
}

/// Checks a filter in `RUST_LOG`'s language.
///
/// # Errors
/// What is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), FilterError> {
    parsed(filter).map(drop).map_err(FilterError)
}

/// A filter that cannot be parsed: why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(String);

impl Logging {
    /// Starts logging for the process. `filter` is in `RUST_LOG`'s language.
    ///
    /// # Errors
    /// If the filter cannot be parsed, or logging was started before.
    pub fn start(format: LogFormat, filter: &str) -> Result<Self, String> {
        let (writer, guard) = queue(Gathering(Vec::with_capacity(GATHERED)));
        let dropped = writer.error_counter();
        Self::begin(format, filter, writer, UtcTime::rfc_3339(), (dropped, guard))
    }

    /// Starts logging for the process to the system log of this host, which dates the lines itself.
    ///
    /// # Errors
    /// As [`Logging::start`], and if there is no system log.
    pub fn start_syslog(format: LogFormat, filter: &str) -> Result<Self, String> {
        let (writer, guard) = queue(Syslog::open(Path::new(DEV_LOG))?);
        let dropped = writer.error_counter();
        let begun = Self::begin(format, filter, Prioritised::new(writer), (), (dropped, guard));
        begun.map_err(|e| format!("RUST_LOG: {e}"))
    }

    fn begin<W, T>(
        format: LogFormat,
        filter: &str,
        writer: W,
        timer: T,
        (dropped, guard): (ErrorCounter, WorkerGuard),
    ) -> Result<Self, String>
    where
        W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
        T: FormatTime + Send + Sync + 'static,
    {
        let quiet = filter.starts_with(QUIET);
        let (filter, handle) = reload::Layer::new(parsed(filter)?);
        let layer = match format {
            LogFormat::Text => tracing_subscriber::fmt::layer()
                .with_writer(writer)
                .with_timer(timer)
                .with_ansi(false)
                .boxed(),
            LogFormat::Json => tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_writer(writer)
                .with_timer(timer)
                .boxed(),
            LogFormat::Istio => tracing_subscriber::fmt::layer()
                .event_format(istio_log::Plain)
                .with_writer(writer)
                .with_ansi(false)
                .boxed(),
            LogFormat::IstioJson => tracing_subscriber::fmt::layer()
                .fmt_fields(JsonFields::new())
                .event_format(istio_log::Json)
                .with_writer(writer)
                .with_ansi(false)
                .boxed(),
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(layer)
            .try_init()
            .map_err(|e| e.to_string())?;
        let default = if quiet { QUIET_DEFAULT } else { "info" };
        Ok(Self { filter: handle, default, dropped, _writer: Arc::new(guard) })
    }

    /// How many lines were lost because nobody read them fast enough.
    #[must_use]
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }

    /// The filter in force.
    #[must_use]
    pub fn filter(&self) -> String {
        self.filter.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Adds to the filter, or to the default one if that is to be restored first. A new level of a
    /// part replaces its earlier one.
    ///
    /// # Errors
    /// If `more` cannot be parsed; the filter stays as it was.
    pub fn add_filter(&self, more: &str, restore: bool) -> Result<(), String> {
        let now = if restore { self.default.to_string() } else { self.filter() };
        let filter = match more.trim() {
            "" => now,
            more => {
                parsed(more)?;
                format!("{now},{more}")
            }
        };
        self.filter.reload(parsed(&filter)?).map_err(|e| e.to_string())
    }
}
