//! Redirecting a pod's TCP to adit: rules inside the pod's network namespace
//! (istio-ambient facts §2). What they say is in [`rules`]; this file applies them.
//!
//! Applying twice is the same as once, and removing what is not there is no error.

mod probes;
mod rules;

pub use probes::{guard_probes, probes_admitted, probes_guarded};

use std::{
    io::{self, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::sys::netns::Netns;

/// Why rules could not be applied, removed or shown.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The tool is not there.
    #[error(
        "{tool} is not installed; install the package {package} (Debian) or set `capture: {{ rules: none }}` and redirect by other means"
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
    #[error("{tool} was stopped, as adit is")]
    Stopped {
        /// `nft` or `ip`.
        tool: &'static str,
    },
    /// The namespace could not be entered, or a process not started.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What the rules let by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// Plaintext from before the rules is dropped too, not only what is redirected.
    pub strict: bool,
    /// What comes from the address that istio-cni gives the kubelet's probes passes, counted.
    pub kubelet_probes: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { strict: true, kubelet_probes: false }
    }
}

/// Applies the rules inside `netns`, in place of those that are there. Tools end when `stop`
/// fires.
///
/// # Errors
/// [`CaptureError`]; the nft rules are then as they were, or new. None are ever removed: what
/// protects the pod stays.
pub fn apply(
    netns: &Arc<Netns>,
    options: Options,
    stop: &CancellationToken,
) -> Result<(), CaptureError> {
    let tools = Tools { netns, stop };
    tools.nft(&["-f", "-"], &rules::ruleset(options))?;
    policy_routing(tools)
}

fn policy_routing(tools: Tools<'_>) -> Result<(), CaptureError> {
    let add = |family, lines| match tools.ip(&[family, "-batch", "-"], lines) {
        // The rule of an earlier start.
        Err(CaptureError::Tool { stderr, .. }) if stderr.contains("File exists") => Ok(()),
        done => done.map(drop),
    };
    add("-4", rules::ROUTING_V4)?;
    if has_ipv6(tools.netns)? {
        add("-6", rules::ROUTING_V6)?;
    }
    Ok(())
}

/// Removes the rules from `netns`. Tools end when `stop` fires.
///
/// # Errors
/// [`CaptureError`] if a tool is missing or the namespace cannot be entered.
pub fn remove(netns: &Arc<Netns>, stop: &CancellationToken) -> Result<(), CaptureError> {
    let tools = Tools { netns, stop };
    tools.nft(&["-f", "-"], rules::REMOVE)?;
    for family in ["-4", "-6"] {
        // Each line may name something that is not there: -force goes on to the next.
        match tools.ip(&[family, "-force", "-batch", "-"], rules::UNROUTING) {
            Ok(_) | Err(CaptureError::Tool { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// What is applied inside `netns`: `applied`, the nft tables, and the policy routing.
///
/// # Errors
/// As [`remove`].
pub fn show(netns: &Arc<Netns>) -> Result<Value, CaptureError> {
    let tools = Tools { netns, stop: &CancellationToken::new() };
    let tables = tools.nft(&["list", "tables"], "")?;
    let mut ruleset = String::new();
    for table in rules::TABLES {
        if tables.contains(table) {
            ruleset.push_str(&tools.nft(&["list", "table", "inet", table], "")?);
        }
    }
    let routing: Vec<String> = ["-4", "-6"]
        .iter()
        .filter_map(|family| tools.ip(&[family, "rule", "show", "priority", "32764"], "").ok())
        .flat_map(|text| text.lines().map(ToOwned::to_owned).collect::<Vec<_>>())
        .collect();
    Ok(json!({
        "applied": rules::ALWAYS.iter().all(|t| tables.contains(t)) && !routing.is_empty(),
        "nft": ruleset,
        "ipRules": routing,
    }))
}

fn has_ipv6(netns: &Arc<Netns>) -> io::Result<bool> {
    netns.run(|| {
        let disabled = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";
        std::fs::read_to_string(disabled).is_ok_and(|text| text.trim() == "0")
    })
}

/// How long `nft` or `ip` may take.
const TOOL_DEADLINE: Duration = Duration::from_secs(5);

/// `nft` and `ip` inside a namespace, for as long as somebody waits for them.
#[derive(Clone, Copy)]
struct Tools<'a> {
    netns: &'a Arc<Netns>,
    stop: &'a CancellationToken,
}

impl Tools<'_> {
    fn nft(self, args: &[&str], input: &str) -> Result<String, CaptureError> {
        self.run("nft", "nftables", args, input)
    }

    fn ip(self, args: &[&str], input: &str) -> Result<String, CaptureError> {
        self.run("ip", "iproute2", args, input)
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
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.netns.run(|| command.spawn())?.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => CaptureError::NoTool { tool, package },
            _ => CaptureError::Io(e),
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            // The tool may refuse before it has read all; its own words say why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let began = Instant::now();
        while child.try_wait()?.is_none() {
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
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(CaptureError::Tool { tool, stderr })
    }
}
