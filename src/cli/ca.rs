//! `adit ca`: the embedded CA.

use clap::{Args, Subcommand};

use super::ca_serve;

#[derive(Debug, Args)]
pub(super) struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Issue SVIDs to other nodes and other proxies (Istio CA API) until SIGTERM
    Serve(ca_serve::ServeArgs),
    /// Join tokens, for hosts without Kubernetes
    Token(ca_serve::TokenArgs),
}

pub(super) fn run(args: &CaArgs) -> u8 {
    match &args.command {
        CaCommand::Serve(args) => ca_serve::serve(args),
        CaCommand::Token(args) => ca_serve::token(args),
    }
}
