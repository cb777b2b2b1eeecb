//! `adit workload-api check`: does anybody's Workload API keep the specification?

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    BAD_CONFIG, FAILED,
    findings::{self, LEGEND},
    output::{Format, complain},
    svid,
};
use crate::{
    credentials::workload_api::{Endpoint, client::ENDPOINT_VARIABLE},
    spiffe_api::check::{Options, check},
};

const EXAMPLES: &str = "\
Examples:
  adit workload-api check --socket unix:///run/spire/agent.sock
  adit workload-api check --socket unix:///run/adit/agent.sock --quiet
  adit workload-api check --json | jq '.reports[].findings'

adit calls the server as any workload does: register it, or run it as a user
that is registered.
";

#[derive(Debug, Args)]
pub(super) struct WorkloadApiArgs {
    #[command(subcommand)]
    command: WorkloadApiCommand,
}

#[derive(Debug, Subcommand)]
enum WorkloadApiCommand {
    /// Check a server against the specification, rule by rule
    Check(CheckArgs),
}

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\nMore:\n{LEGEND}"))]
struct CheckArgs {
    /// Address of the Workload API: unix:///PATH, tcp://IP:PORT, or a path
    #[arg(long, value_name = "ADDR", env = ENDPOINT_VARIABLE)]
    socket: String,
    /// Audience of the tokens that are fetched and validated
    #[arg(long, default_value = "adit-check")]
    audience: String,
    /// How long to watch a stream for updates that change nothing
    #[arg(
        long,
        value_name = "TIME",
        default_value = "3s",
        value_parser = humantime::parse_duration
    )]
    watch: Duration,
    /// Timeout of one answer
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        value_parser = humantime::parse_duration
    )]
    timeout: Duration,
    /// Show only rules that are broken or not checked
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: WorkloadApiArgs) -> u8 {
    let WorkloadApiCommand::Check(args) = args.command;
    let options = Options { audience: args.audience, watch: args.watch, answer: args.timeout };
    let missing = args.socket.parse().is_ok_and(|at: Endpoint| svid::is_there(&at).is_err());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let report = match runtime {
        Ok(runtime) => runtime.block_on(check(&args.socket, &options)),
        Err(error) => {
            complain!("adit workload-api check: {error}");
            return FAILED;
        }
    };
    let code = findings::print(args.format, &[(args.socket, report)], args.quiet);
    if missing { BAD_CONFIG } else { code }
}
