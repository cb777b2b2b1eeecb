//! Log lines on stdout, as text or JSON, with a filter that can be changed while running.
//!
//! Writing happens on a thread of its own behind a bounded queue: a reader that stalls
//! loses lines and delays no connection.

use std::{
    fmt,
    io::{self, Write},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::ParseError, fmt::time::UtcTime, layer::SubscriberExt,
    reload, util::SubscriberInitExt,
};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" | "plain" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is none of text, json")),
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

/// The running log: changes the filter, and flushes when dropped.
#[derive(Clone)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    dropped: ErrorCounter,
    _writer: Arc<WorkerGuard>,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logging({})", self.filter())
    }
}

impl Logging {
    /// Starts logging for the process. `filter` is in `RUST_LOG`'s language.
    ///
    /// # Errors
    /// If the filter cannot be parsed, or logging was started before.
    pub fn start(format: LogFormat, filter: &str) -> Result<Self, String> {
        let filter: EnvFilter = filter.parse().map_err(|e: ParseError| e.to_string())?;
        let (filter, handle) = reload::Layer::new(filter);
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(65_536)
            .finish(Gathering(Vec::with_capacity(GATHERED)));
        let dropped = writer.error_counter();
        let timer = UtcTime::rfc_3339();
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
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(layer)
            .try_init()
            .map_err(|e| e.to_string())?;
        Ok(Self { filter: handle, dropped, _writer: Arc::new(guard) })
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

    /// Replaces the filter.
    ///
    /// # Errors
    /// If `filter` cannot be parsed; the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), String> {
        let filter: EnvFilter = filter.parse().map_err(|e: ParseError| e.to_string())?;
        self.filter.reload(filter).map_err(|e| e.to_string())
    }
}
