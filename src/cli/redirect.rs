//! `adit redirect`: the capture rules of one network namespace.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{
    FAILED, OK,
    output::{complain, say},
};
use crate::{mesh::NetnsRef, node::capture, sys::netns::Netns};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Verb {
    /// Redirect the namespace's TCP to adit
    Apply,
    /// Undo it
    Remove,
    /// Say what is applied, as JSON
    Show,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  adit redirect apply --netns shop-web\n  adit redirect show --netns pid:4711\n\n`adit run` does this by itself where the mesh file says `capture: { rules: nft }`."
)]
pub(super) struct RedirectArgs {
    verb: Verb,
    /// A name under /run/netns, an absolute path, or pid:N
    #[arg(long, value_name = "N")]
    netns: NetnsRef,
    /// Let plaintext connections that are older than the rules go on (mtls: permissive)
    #[arg(long)]
    permissive: bool,
    /// Let the kubelet's probes pass, from the address that istio-cni gives them
    #[arg(long)]
    kubelet_probes: bool,
}

impl RedirectArgs {
    fn options(&self) -> capture::Options {
        capture::Options { strict: !self.permissive, kubelet_probes: self.kubelet_probes }
    }
}

pub(super) fn run(args: &RedirectArgs) -> u8 {
    match act(args) {
        Ok(()) => OK,
        Err(error) => {
            complain!("{}: {error:#}", args.netns);
            FAILED
        }
    }
}

fn act(args: &RedirectArgs) -> anyhow::Result<()> {
    let netns = Arc::new(Netns::open(&args.netns.path())?);
    let patience = CancellationToken::new();
    match args.verb {
        Verb::Apply => {
            if args.kubelet_probes {
                capture::guard_probes(&patience)?;
            }
            capture::apply(&netns, args.options(), &patience)?;
        }
        Verb::Remove => capture::remove(&netns, &patience)?,
        Verb::Show => say!("{:#}", capture::show(&netns)?),
    }
    Ok(())
}
