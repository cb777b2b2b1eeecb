//! The system log of this host: a datagram per line to `/dev/log`, in the form that syslog(3)
//! uses (RFC 3164), without a date: who receives it dates it.

use std::{
    io::{self, Write},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::Duration,
};

use tracing::{Level, Metadata};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::fmt::MakeWriter;

/// Where it listens.
pub(super) const DEV_LOG: &str = "/dev/log";
/// RFC 3164 §4.1.1: system daemons.
const DAEMON: u8 = 3 << 3;
/// How long the log may keep us waiting for one line.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest line: what others take.
const LONGEST: usize = 8 * 1024;

/// The socket; made anew when the log has been restarted.
pub(super) struct Syslog {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Syslog {
    /// Connects to it.
    ///
    /// # Errors
    /// If nobody listens there.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let socket = connect(path).map_err(|e| {
            format!("--syslog: {}: {e}; is a syslog daemon or journald there?", path.display())
        })?;
        Ok(Self { path: path.to_owned(), socket })
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(path)?;
    Ok(socket)
}

impl Write for Syslog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = line.trim_ascii_end();
        let text = &text[..text.len().min(LONGEST)];
        if self.socket.send(text).is_err() {
            // A log that was restarted has another socket; one that is full keeps its own.
            if let Ok(again) = connect(&self.path) {
                self.socket = again;
                let _ = self.socket.send(text);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts the severity and who we are in front of each line.
pub(super) struct Prioritised {
    queue: NonBlocking,
    pid: u32,
}

impl Prioritised {
    pub(super) fn new(queue: NonBlocking) -> Self {
        Self { queue, pid: std::process::id() }
    }

    fn at(&self, level: Level) -> SyslogLine {
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        SyslogLine {
            queue: self.queue.clone(),
            head: format!("<{}>adit[{}]: ", DAEMON | severity, self.pid),
        }
    }
}

impl<'w> MakeWriter<'w> for Prioritised {
    type Writer = SyslogLine;

    fn make_writer(&'w self) -> SyslogLine {
        self.at(Level::INFO)
    }

    fn make_writer_for(&'w self, meta: &Metadata<'_>) -> SyslogLine {
        self.at(*meta.level())
    }
}

/// One line on its way.
pub(super) struct SyslogLine {
    queue: NonBlocking,
    head: String,
}

impl Write for SyslogLine {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.queue.write_all(&[self.head.as_bytes(), text].concat())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_appender::non_blocking::NonBlockingBuilder;

    #[test]
    fn a_line_is_a_datagram_with_its_severity_also_after_a_restart_of_the_log() {
        let folder = std::env::temp_dir().join(format!("adit-syslog-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("log");
        let heard = |daemon: &UnixDatagram| {
            let mut room = [0; 200];
            daemon.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let n = daemon.recv(&mut room).unwrap();
            String::from_utf8_lossy(&room[..n]).into_owned()
        };
        let daemon = UnixDatagram::bind(&path).unwrap();
        let (queue, guard) = NonBlockingBuilder::default().finish(Syslog::open(&path).unwrap());
        let lines = Prioritised::new(queue);
        lines.at(Level::WARN).write_all(b"one\n").unwrap();
        let me = std::process::id();
        assert_eq!(heard(&daemon), format!("<28>adit[{me}]: one"));
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        let daemon = UnixDatagram::bind(&path).unwrap();
        lines.at(Level::INFO).write_all(b"two\n").unwrap();
        assert_eq!(heard(&daemon), format!("<30>adit[{me}]: two"));
        drop(guard);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(Syslog::open(&path).err().unwrap().contains("--syslog"));
    }
}
