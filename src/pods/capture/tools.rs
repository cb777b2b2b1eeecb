//! `nft` and `ip` inside a namespace, and how they fail.

use std::{
    io::{self, Read, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::sys::{netns::Netns, process::ignore_stop_signals};

/// Why rules could not be applied, removed or shown.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The tool is not there.
    #[error(
        "{tool} is not installed; install the package {package} (Debian), or set `capture: {{ \
         rules: none }}` and redirect traffic by other means"
    )]
    NoTool {
        /// `nft` or `ip`.
        tool: &'static str,
        /// Where it comes from.
        package: &'static str,
    },
    /// The tool refused.
    #[error("{tool} failed: {stderr}")]
    Tool {
        /// `nft` or `ip`.
        tool: &'static str,
        /// What it said.
        stderr: String,
    },
    /// The tool did not end in time, and was ended.
    #[error("{tool} did not end within {} s and was stopped", TOOL_DEADLINE.as_secs())]
    Hung {
        /// `nft` or `ip`.
        tool: &'static str,
    },
    /// Nobody waits for it any longer.
    #[error("{tool} was stopped because adit is shutting down")]
    Stopped {
        /// `nft` or `ip`.
        tool: &'static str,
    },
    /// What is redirected goes over `lo`.
    #[error(
        "the interface lo is down in this network namespace, and redirected connections go over \
         it; run `ip link set lo up` inside the namespace"
    )]
    LoDown,
    /// The namespace could not be entered, or a process not started.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How long `nft` or `ip` may take.
const TOOL_DEADLINE: Duration = Duration::from_secs(5);

/// The tools, for as long as somebody waits for them.
#[derive(Clone, Copy)]
pub(super) struct Tools<'a> {
    pub(super) netns: &'a Arc<Netns>,
    pub(super) stop: &'a CancellationToken,
}

impl Tools<'_> {
    pub(super) fn nft(self, args: &[&str], input: &str) -> Result<String, CaptureError> {
        self.run("nft", "nftables", args, input)
    }

    pub(super) fn ip(self, args: &[&str], input: &str) -> Result<String, CaptureError> {
        self.run("ip", "iproute2", args, input)
    }

    /// One of the four kinds of iptables.
    pub(super) fn iptables(
        self,
        tool: &'static str,
        args: &[&str],
    ) -> Result<String, CaptureError> {
        self.run(tool, "iptables", args, "")
    }

    /// Runs a tool inside the namespace: the child inherits it from this thread.
    fn run(
        self,
        tool: &'static str,
        package: &'static str,
        args: &[&str],
        input: &str,
    ) -> Result<String, CaptureError> {
        let mut command = Command::new(tool);
        // What it says is read in one language.
        command
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Rules are removed, or noted to stay, while adit itself is told to stop.
        ignore_stop_signals(&mut command);
        let mut child = self.netns.run(|| command.spawn())?.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => CaptureError::NoTool { tool, package },
            _ => CaptureError::Io(e),
        })?;
        // A tool that says much waits until it has been read.
        let (says, complains) = (drained(child.stdout.take()), drained(child.stderr.take()));
        if let Some(mut stdin) = child.stdin.take() {
            // The tool may refuse before it has read all; its own words say why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            let stopped = self.stop.is_cancelled();
            if stopped || began.elapsed() > TOOL_DEADLINE {
                child.kill()?;
                child.wait()?;
                return Err(match stopped {
                    true => CaptureError::Stopped { tool },
                    false => CaptureError::Hung { tool },
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let said = |all: Drained| all.and_then(|all| all.join().ok()).unwrap_or_default();
        if status.success() {
            let says = said(says);
            if says.len() as u64 == MOST_SAID {
                // What is missing of it would be taken for what is not there.
                let stderr = format!("its output is longer than {MOST_SAID} bytes");
                return Err(CaptureError::Tool { tool, stderr });
            }
            return Ok(String::from_utf8_lossy(&says).into_owned());
        }
        let stderr = String::from_utf8_lossy(&said(complains)).trim().to_owned();
        Err(CaptureError::Tool { tool, stderr })
    }
}

/// What a listing of nft says of one of these tables; none if it is not there.
pub(super) fn listed<'a>(listing: &'a str, table: &str) -> Option<&'a str> {
    let from = &listing[listing.find(&format!("table inet {table} {{"))?..];
    Some(from.find("\n}").map_or(from, |end| &from[..=end]))
}

type Drained = Option<std::thread::JoinHandle<Vec<u8>>>;

/// Reads a pipe to its end beside this thread, and keeps its first part.
fn drained(pipe: Option<impl Read + Send + 'static>) -> Drained {
    let mut pipe = pipe?;
    Some(std::thread::spawn(move || {
        let mut kept = Vec::new();
        let _ = pipe.by_ref().take(MOST_SAID).read_to_end(&mut kept);
        let _ = io::copy(&mut pipe, &mut io::sink());
        kept
    }))
}

/// So much of what a tool says is kept, bytes.
const MOST_SAID: u64 = 1 << 20;
