//! `adit bench`: load, and a far end for it.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Subcommand};

use super::{
    FAILED, OK, USAGE,
    output::{self, Format, complain, say},
};
use crate::{
    app::bench::{self, Load, MOST_SIZE, Mode},
    net::Address,
};

/// The shortest time that is measured.
const LEAST: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        adit bench serve --listen 127.0.0.1:9000\n  \
        adit bench run 127.0.0.1:9000 --mode ping --connections 64 --rate 20000\n  \
        adit bench run 127.0.0.1:9000 --mode bulk-up --connections 4 --verify --json\n\n\
        Put any proxy between the two; without one, you measure the machine itself.")]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Serve the other end of the load, until SIGTERM
    #[command(after_help = "Example:\n  adit bench serve --listen 127.0.0.1:9000")]
    Serve {
        /// Addresses to listen on, separated by commas
        #[arg(long, value_name = "ADDR", value_delimiter = ',', required = true)]
        listen: Vec<SocketAddr>,
        /// Number of threads
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
        workers: u16,
    },
    /// Generate load, directly or through a proxy, and report the results
    #[command(after_help = "Example:\n  \
        adit bench run 127.0.0.1:9000 --mode ping --connections 64 --rate 20000\n\n\
        More:\n\
        Without --rate, each connection sends its next message when the answer has\n\
        arrived (closed loop). With --rate, messages are due at fixed times, and latency\n\
        is measured from those: when the target stalls, each message that had to wait\n\
        counts (no coordinated omission). The exit code is 1 if an operation failed or\n\
        none was done.")]
    Run(RunArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Address of `adit bench serve`, or of the proxy in front of it: HOST:PORT
    #[arg(value_name = "ADDR")]
    target: Address,
    /// Kind of load
    #[arg(long, value_enum)]
    mode: Mode,
    /// Number of connections (mixed: for the small messages)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// How long to measure
    #[arg(long, default_value = "5", value_parser = measured)]
    seconds: Duration,
    /// How long to warm up before that
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    warmup: Duration,
    /// Size of a message, bytes
    #[arg(
        long,
        default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SIZE))
    )]
    size: u32,
    /// Messages per second, all connections together
    ///
    /// For --mode ping and mixed; for churn, connections per second.
    #[arg(
        long,
        value_name = "PER_SECOND",
        value_parser = clap::value_parser!(u32).range(1..=10_000_000)
    )]
    rate: Option<u32>,
    /// Bytes per second of a slow reader [default: 100000]
    ///
    /// For --mode slow; 0 reads nothing.
    #[arg(long, value_name = "BYTES")]
    read_rate: Option<u64>,
    /// Number of readers that stall (--mode mixed) [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(..=10_000))]
    stalled: Option<u16>,
    /// Number of bulk streams, half in each direction (--mode mixed) [default: 10]
    #[arg(long, value_parser = clap::value_parser!(u16).range(..=10_000))]
    bulk: Option<u16>,
    /// Measure the small messages alone first, and compare (--mode mixed)
    #[arg(long)]
    baseline: bool,
    /// Number of threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Check every byte, at both ends
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    format: Format,
    /// Do not show a progress bar
    #[arg(long)]
    quiet: bool,
}

impl RunArgs {
    /// The flag that this mode does nothing with, and the modes that do.
    fn without_effect(&self) -> Option<(&'static str, &'static str)> {
        let (mixed, slow) = (self.mode == Mode::Mixed, self.mode == Mode::Slow);
        let given = [
            (self.rate.is_some() && !self.mode.is_paced(), "--rate", "ping, churn and mixed"),
            (self.read_rate.is_some() && !slow, "--read-rate", "slow"),
            (self.stalled.is_some() && !mixed, "--stalled", "mixed"),
            (self.bulk.is_some() && !mixed, "--bulk", "mixed"),
            (self.baseline && !mixed, "--baseline", "mixed"),
        ];
        given.into_iter().find_map(|(wrong, flag, of)| wrong.then_some((flag, of)))
    }
}

/// As long as something can be measured.
fn measured(text: &str) -> Result<Duration, String> {
    match seconds(text) {
        Ok(time) if time < LEAST => Err("must be 0.01 to 86400".to_owned()),
        other => other,
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|e| format!("{e}; for example 2.5"))?;
    if !(0.0..=86_400.0).contains(&number) {
        return Err("must be 0 to 86400".to_owned());
    }
    Ok(Duration::from_secs_f64(number))
}

pub(super) fn run(args: BenchArgs) -> u8 {
    let done = match args.command {
        BenchCommand::Serve { listen, workers } => {
            bench::serve(&listen, workers.into()).map(|()| OK)
        }
        BenchCommand::Run(args) => load(&args),
    };
    done.unwrap_or_else(|error| {
        complain!("adit bench: {error:#}");
        FAILED
    })
}

fn load(args: &RunArgs) -> anyhow::Result<u8> {
    if let Some((flag, modes)) = args.without_effect() {
        complain!("adit bench: {flag} is for --mode {modes} and has no effect here");
        return Ok(USAGE);
    }
    let measured = bench::run(&Load {
        target: bench::resolve(&args.target)?,
        mode: args.mode,
        connections: args.connections as usize,
        time: args.seconds,
        warmup: args.warmup,
        size: args.size,
        rate: args.rate.map(f64::from),
        read_rate: args.read_rate.unwrap_or(100_000),
        stalled: args.stalled.unwrap_or(1).into(),
        bulk: args.bulk.unwrap_or(10).into(),
        baseline: args.baseline,
        workers: args.workers.into(),
        verify: args.verify,
        progress: !args.quiet,
    })?;
    if args.format.is_json() {
        say!("{}", measured.json);
    } else {
        output::text(&measured.table);
    }
    Ok(if measured.sound { OK } else { FAILED })
}
