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
    filter::{LevelFilter, ParseError},
    fmt::{
        MakeWriter,
        time::{FormatTime, UtcTime},
    },
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use super::syslog::{DEV_LOG, Prioritised, Syslog};

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

/// What our lines are of, beside modules (`adit::…`).
const TARGETS: [&str; 6] = ["access", "ca", "federation", "svid", "tunnel", "workload_api"];

/// A filter. A word alone that is not a valid level would be taken for a part of the program, and
/// everything else would be silent.
fn parsed(filter: &str) -> Result<EnvFilter, String> {
    for word in filter.split(',').map(str::trim) {
        let ours = word == "adit" || word.starts_with("adit::") || TARGETS.contains(&word);
        let alone = !word.is_empty() && !word.contains(['=', '[', ']', '{', '}']);
        if alone && !ours && word.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "{word:?} is not a valid level (off, error, warn, info, debug, trace); for one \
                 part of the program write PART=LEVEL, such as svid=debug"
            ));
        }
    }
    let filter = if filter.trim().is_empty() { "info" } else { filter };
    filter.parse().map_err(|e: ParseError| e.to_string())
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
        let (writer, guard) = queue(Gathering(Vec::with_capacity(GATHERED)));
        let dropped = writer.error_counter();
        Self::begin(format, filter, writer, UtcTime::rfc_3339(), (dropped, guard))
    }

    /// The same to the system log of this host, which dates the lines itself.
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
        self.filter.reload(parsed(filter)?).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::parsed;

    #[test]
    fn a_word_that_is_no_level_silences_nothing() {
        for right in [
            "info",
            "WARN",
            "off",
            "3",
            "",
            "adit",
            "adit::node",
            "svid",
            "svid=debug,info",
            "info,access=off",
            "h2=trace",
            "info,[conn{id=1}]=debug",
        ] {
            assert!(parsed(right).is_ok(), "{right}: {:?}", parsed(right).err());
        }
        for (wrong, says) in [
            ("inof", "\"inof\" is not a valid level (off, error,"),
            ("svid=debug,wran", "\"wran\" is not a valid level"),
            ("adit=inof", "expected one of"),
        ] {
            let error = parsed(wrong).err().unwrap_or_default();
            assert!(error.contains(says), "{wrong}: {error}");
        }
        assert_eq!(parsed("").unwrap().to_string(), "info");
    }
}
