//! Subcommands, their help and exit codes.

#[cfg(feature = "bench")]
mod bench;
mod ca;
mod ca_serve;
mod cert;
mod check;
mod completions;
#[cfg(feature = "demo")]
mod demo;
mod exit;
mod findings;
mod guide;
mod help;
mod import;
mod init;
mod man;
mod node;
mod output;
mod proxy;
mod redirect;
mod standalone;
mod svid;
mod svid_lint;
mod workload_api_check;

use std::{ffi::OsString, path::PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::exit::{BAD_CONFIG, FAILED, OK, USAGE};
use self::output::{complain, say};
use crate::{
    identity::{without, without_lines_of_keys},
    net::Address,
    observe::{BuildInfo, Feature},
};

/// A transparent mTLS proxy: SPIFFE identity for every pod, HBONE on the wire
#[derive(Debug, Parser)]
#[command(name = "adit", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Proxy the pods of a mesh file
    #[command(after_help = "Example:\n  \
        adit run -c /etc/adit/mesh.yaml\n\n\
        Runs until SIGTERM and then drains connections. Needs CAP_NET_ADMIN and\n\
        CAP_SYS_ADMIN. Edits of the file take effect at once; an edit with errors is\n\
        logged and changes nothing. RUST_LOG sets the log filter.\n\n\
        Incubating: ca: { broker: … }, the SPIFFE Broker API, may change with its\n\
        specification.")]
    Run {
        /// Path of the mesh file
        #[arg(short, long, value_name = "FILE", env = "ADIT_CONFIG")]
        config: PathBuf,
        /// Hot restart at this socket, unix:PATH
        ///
        /// adit takes the pods over from the process that serves the socket, and later hands them
        /// to the next process; no connection is refused. SIGUSR2 starts the next process.
        #[arg(long, value_name = "ADDR")]
        takeover: Option<Address>,
    },
    /// Proxy the pods of an Istio ambient node, in ztunnel's place
    #[command(after_help = "Example:\n  \
        adit node\n\n\
        Runs until SIGTERM. Settings come from the environment, as Istio's chart or\n\
        Cilium's sets it: address, roots and token of the control plane, the node's\n\
        name, limits, log level. Variables that look like one of these and are not\n\
        known are logged as a warning. `adit proxy ztunnel`, the arguments of those\n\
        charts, does the same.")]
    Node,
    /// Terminate TLS in front of a service that speaks plaintext
    Server(Box<standalone::ServerArgs>),
    /// Originate TLS for a client that speaks plaintext
    Client(Box<standalone::ClientArgs>),
    /// Run many such servers and clients from one file
    Proxy(proxy::ProxyArgs),
    /// Apply, remove or show the capture rules of a network namespace
    Redirect(redirect::RedirectArgs),
    /// Check a file of `adit run`, `adit proxy` or `adit ca serve`
    Check(check::CheckArgs),
    /// Read a guide
    Guide(guide::GuideArgs),
    /// Measure a proxy: generate load, and serve the other end of it
    #[cfg(feature = "bench")]
    Bench(bench::BenchArgs),
    /// Fetch, watch and validate SVIDs; check SVIDs of any issuer
    Svid(svid::SvidArgs),
    /// Check a Workload API server against the specification
    WorkloadApi(workload_api_check::WorkloadApiArgs),
    /// Run, rotate and look at the embedded CA
    Ca(ca::CaArgs),
    /// Make throw-away certificates
    Cert(cert::CertArgs),
    /// Show adit at work here: two nodes, four pods, real traffic
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// Write a commented configuration file that runs
    Init(init::InitArgs),
    /// Translate the configuration of another proxy
    Import(import::ImportArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:\n  \
        adit completions bash > /etc/bash_completion.d/adit\n  \
        adit completions zsh > /usr/local/share/zsh/site-functions/_adit\n  \
        adit completions fish > ~/.config/fish/completions/adit.fish")]
    Completions {
        /// Shell to print it for
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man(man::ManArgs),
    /// Print the version and the build
    Version,
}

/// Parses the command line and does what it says; returns the exit code.
#[must_use]
pub fn main() -> u8 {
    output::finished(done())
}

fn done() -> u8 {
    let mut args: Vec<_> = std::env::args_os().collect();
    if let Some(arguments) = node::asked(&args) {
        if !node::asks_for_help(&arguments) {
            return node::run(&arguments);
        }
        args = ["adit", "node", "--help"].map(Into::into).into();
    }
    if args.len() <= 1 {
        complain!("{}", help::WELCOME.trim_end());
        return USAGE;
    }
    match parsed(args) {
        Ok(cli) => act(cli.command),
        Err(code) => code,
    }
}

/// The command line, or the exit code of one that was answered already.
fn parsed(args: Vec<OsString>) -> Result<Cli, u8> {
    let args = help::help_last(standalone::reordered(args), &Cli::command());
    let missing = args.get(1).and_then(|command| command.to_str()).filter(|command| {
        !command.starts_with('-') && Cli::command().find_subcommand(command).is_none()
    });
    if let Some(missing) = missing.and_then(not_built) {
        complain!("adit {missing}");
        return Err(USAGE);
    }
    let as_ghostunnel = args.get(1).is_some_and(|a| a == "server" || a == "client");
    let mut command = help::arranged(Cli::command(), help::Extent::asked(&args));
    let given: Vec<_> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let matches = command.try_get_matches_from_mut(args);
    let error = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    if !error.use_stderr() {
        output::write(|| error.print());
        return Err(OK);
    }
    let told = error.render().to_string();
    let values = given.iter().map(|arg| arg.split_once('=').map_or(&**arg, |(_, value)| value));
    let about = |told: String, value| without(&told, value).into_owned();
    match without_lines_of_keys(&values.fold(told.clone(), about)) {
        whole if whole == told => drop(error.print()),
        without => complain!("{without}"),
    }
    Err(if as_ghostunnel { FAILED } else { USAGE })
}

/// The command line as people see all of it: for completion scripts and manual pages.
fn whole() -> clap::Command {
    help::arranged(Cli::command(), help::Extent::All)
}

fn act(command: Command) -> u8 {
    match command {
        Command::Run { config, takeover } => match takeover {
            None => run(&config, None),
            Some(Address::Unix(path)) => run(&config, Some(&path)),
            Some(other) => {
                complain!("--takeover {other}: must be unix:PATH");
                USAGE
            }
        },
        Command::Check(args) => check::run(&args),
        Command::Ca(args) => ca::run(&args),
        Command::Redirect(args) => redirect::run(&args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args),
        #[cfg(feature = "bench")]
        Command::Bench(args) => bench::run(args),
        Command::Server(args) => standalone::serve(args.plan()),
        Command::Client(args) => standalone::serve(args.plan()),
        Command::Node => node::run(&["node".to_owned()]),
        Command::Proxy(args) => proxy::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Cert(args) => cert::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Svid(args) => svid::run(args),
        Command::WorkloadApi(args) => workload_api_check::run(args),
        Command::Completions { shell } => {
            output::text(&completions::script(shell, whole()));
            OK
        }
        Command::Man(args) => man::run(&args, whole()),
        Command::Guide(args) => guide::run(&args),
        Command::Version => {
            let istio = std::env::var("ISTIO_META_ISTIO_VERSION").ok();
            say!("{}", BuildInfo::with_istio(istio.as_deref()));
            OK
        }
    }
}

/// Why this build does not know a subcommand that others have.
fn not_built(command: &str) -> Option<String> {
    let of_name = |feature: &Feature| feature.name() == command;
    let feature = [Feature::Bench, Feature::Demo].into_iter().find(of_name)?;
    feature.require().err().map(|missing| format!("{command}: {missing}"))
}

fn run(config: &std::path::Path, takeover: Option<&std::path::Path>) -> u8 {
    match crate::app::run(config, takeover) {
        Ok(()) => OK,
        Err(error) => {
            complain!("{error}");
            match error {
                crate::app::RunError::Config(_) | crate::app::RunError::Named(_) => BAD_CONFIG,
                crate::app::RunError::Start(_) => FAILED,
            }
        }
    }
}
