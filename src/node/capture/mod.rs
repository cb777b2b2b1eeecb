//! Redirecting a pod's TCP to adit: rules inside the pod's network namespace
//! (istio-ambient facts §2). What they say is in [`rules`]; this file applies them.
//!
//! Applying twice is the same as once, and removing what is not there is no error.

mod rules;

use std::{
    io::{self, Write},
    process::{Command, Stdio},
    sync::Arc,
};

use serde_json::{Value, json};

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
    /// The namespace could not be entered, or a process not started.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Applies the rules inside `netns`.
///
/// # Errors
/// [`CaptureError`]; rules are then as they were, or removed.
pub fn apply(netns: &Arc<Netns>) -> Result<(), CaptureError> {
    remove(netns)?;
    let applied = nft(netns, &["-f", "-"], rules::RULESET).and_then(|_| policy_routing(netns));
    if applied.is_err() {
        remove(netns)?;
    }
    applied
}

fn policy_routing(netns: &Arc<Netns>) -> Result<(), CaptureError> {
    ip(netns, &["-4", "-batch", "-"], rules::ROUTING_V4)?;
    if has_ipv6(netns)? {
        ip(netns, &["-6", "-batch", "-"], rules::ROUTING_V6)?;
    }
    Ok(())
}

/// Removes the rules from `netns`.
///
/// # Errors
/// [`CaptureError`] if a tool is missing or the namespace cannot be entered.
pub fn remove(netns: &Arc<Netns>) -> Result<(), CaptureError> {
    nft(netns, &["-f", "-"], rules::REMOVE)?;
    for family in ["-4", "-6"] {
        // Each line may name something that is not there: -force goes on to the next.
        match ip(netns, &[family, "-force", "-batch", "-"], rules::UNROUTING) {
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
    let tables = nft(netns, &["list", "tables"], "")?;
    let mut ruleset = String::new();
    for table in rules::TABLES {
        if tables.contains(table) {
            ruleset.push_str(&nft(netns, &["list", "table", "inet", table], "")?);
        }
    }
    let routing: Vec<String> = ["-4", "-6"]
        .iter()
        .filter_map(|family| ip(netns, &[family, "rule", "show", "priority", "32764"], "").ok())
        .flat_map(|text| text.lines().map(ToOwned::to_owned).collect::<Vec<_>>())
        .collect();
    Ok(json!({
        "applied": rules::TABLES.iter().all(|t| tables.contains(t)) && !routing.is_empty(),
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

fn nft(netns: &Arc<Netns>, args: &[&str], input: &str) -> Result<String, CaptureError> {
    run(netns, "nft", "nftables", args, input)
}

fn ip(netns: &Arc<Netns>, args: &[&str], input: &str) -> Result<String, CaptureError> {
    run(netns, "ip", "iproute2", args, input)
}

/// Runs a tool inside the namespace: the child inherits it from this thread.
fn run(
    netns: &Arc<Netns>,
    tool: &'static str,
    package: &'static str,
    args: &[&str],
    input: &str,
) -> Result<String, CaptureError> {
    let mut command = Command::new(tool);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = netns.run(|| command.spawn())?.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => CaptureError::NoTool { tool, package },
        _ => CaptureError::Io(e),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // The tool may refuse before it has read all; its own words say why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CaptureError::Tool { tool, stderr })
}
