//! Subcommands, their help and exit codes.

#[cfg(feature = "bench")]
mod bench;
mod ca;
mod ca_serve;
mod cert;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod exit;
mod findings;
mod guide;
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

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

pub use self::exit::{BAD_CONFIG, FAILED, OK, USAGE};
use self::output::{complain, say};
use crate::{
    identity::{without_keys, without_lines_of_keys},
    net::Address,
    observe::{BuildInfo, Feature},
};

/// A transparent mTLS proxy: SPIFFE identity for every pod, HBONE on the wire.
#[derive(Debug, Parser)]
#[command(
    name = "adit",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 a file that it was given, or one that\n\
        is named there, cannot be read or has errors. adit server and adit client use 0 and 1\n\
        only, as ghostunnel does."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Proxy the pods of a mesh file until SIGTERM
    #[command(after_help = "Example:\n  \
        adit run -c /etc/adit/mesh.yaml\n\n\
        Needs CAP_NET_ADMIN and CAP_SYS_ADMIN. Edits of the file take effect at once; a bad\n\
        edit is logged and changes nothing. RUST_LOG sets the log filter.\n\n\
        Incubating, and may change with its specification: ca: { broker: … }, the SPIFFE\n\
        Broker API.")]
    Run {
        /// Path of the mesh file
        #[arg(short, long, value_name = "FILE", env = "ADIT_CONFIG")]
        config: PathBuf,
        /// Hot restart at this socket, unix:PATH: take the pods over from the process that serves
        /// it, later hand them to the next one; no connection is refused. SIGUSR2 starts the next
        /// one
        #[arg(long, value_name = "ADDR")]
        takeover: Option<Address>,
    },
    /// Check a file of `adit run`, `adit proxy` or `adit ca serve` without running it
    Check(check::CheckArgs),
    /// The embedded CA
    Ca(ca::CaArgs),
    /// Apply, remove or show the capture rules of a network namespace
    Redirect(redirect::RedirectArgs),
    #[cfg(feature = "demo")]
    /// Demonstrate adit on this machine: two nodes, four pods, real traffic
    Demo(demo::DemoArgs),
    #[cfg(feature = "bench")]
    /// Benchmark a proxy, or none: generate load, and serve the other end of it
    Bench(bench::BenchArgs),
    /// TLS in front of one service: accepts TLS, connects to the target in plaintext
    Server(Box<standalone::ServerArgs>),
    /// TLS for one client: accepts plaintext, connects to the target with TLS
    Client(Box<standalone::ClientArgs>),
    /// Proxy the pods of a node of an Istio ambient mesh, in ztunnel's place, until SIGTERM
    #[command(
        after_help = "Reads the environment that Istio's chart (or Cilium's) sets: addresses, roots and token of\n\
        the control plane, the node's name, limits, log level. `adit proxy ztunnel`, the arguments\n\
        of those charts, is the same. Unknown variables of its families are warned about."
    )]
    Node,
    /// Run many such servers and clients from one file, until SIGTERM
    Proxy(proxy::ProxyArgs),
    /// Write a commented file to begin with
    Init(init::InitArgs),
    /// Make throw-away certificates, to try things out
    Cert(cert::CertArgs),
    /// Translate another proxy's configuration
    Import(import::ImportArgs),
    /// Fetch, validate and watch SVIDs over a Workload API; validate SVIDs from any issuer
    Svid(svid::SvidArgs),
    /// Check the Workload API of any server
    WorkloadApi(workload_api_check::WorkloadApiArgs),
    /// Print a completion script
    #[command(after_help = "Example:\n  \
        adit completions bash > /etc/bash_completion.d/adit")]
    Completions {
        /// Shell to print it for
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of all commands
    Man(man::ManArgs),
    /// Read a guide
    Guide(guide::GuideArgs),
    /// Print which build this is
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
    let args = standalone::reordered(args);
    let command = args.get(1).map(|arg| arg.to_string_lossy());
    let unknown = command.as_ref().is_some_and(|command| {
        !command.starts_with('-') && Cli::command().find_subcommand(&**command).is_none()
    });
    if let Some(missing) = command.as_deref().filter(|_| unknown).and_then(not_built) {
        complain!("adit {missing}");
        return USAGE;
    }
    let as_ghostunnel = args.get(1).is_some_and(|a| a == "server" || a == "client");
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            if !error.use_stderr() {
                output::write(|| error.print());
                return OK;
            }
            let told = error.render().to_string();
            match without_lines_of_keys(&without_keys(&told)) {
                whole if whole == told => drop(error.print()),
                without => complain!("{without}"),
            }
            if unknown {
                complain!("\n{}", Cli::command().render_help());
            }
            return if as_ghostunnel { FAILED } else { USAGE };
        }
    };
    match cli.command {
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
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "adit", &mut script);
            output::text(&String::from_utf8_lossy(&script));
            OK
        }
        Command::Man(args) => man::run(&args, Cli::command()),
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
