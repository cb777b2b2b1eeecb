//! `adit redirect`: the capture rules of one network namespace.

use std::{
    io::{
        self,
        ErrorKind::{InvalidInput, NotADirectory, NotFound},
    },
    sync::Arc,
};

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{
    BAD_CONFIG, FAILED, OK,
    output::{complain, say},
};
use crate::{
    mesh::{NetnsRef, NonTcp},
    pods::capture::{self, CaptureError},
    sys::netns::Netns,
};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RedirectVerb {
    /// Redirect the namespace's TCP to adit
    Apply,
    /// Remove the redirection
    Remove,
    /// Show what is applied, as JSON
    Show,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        adit redirect apply --netns shop-web\n  \
        adit redirect show --netns pid:4711\n\n\
        `adit run` does this by itself where the mesh file says `capture: { rules: nft }`.\n\
        If a part cannot be applied, nothing is.")]
pub(super) struct RedirectArgs {
    verb: RedirectVerb,
    /// A name under /run/netns, an absolute path, or pid:N
    #[arg(long, value_name = "N")]
    netns: NetnsRef,
    /// Keep plaintext connections that are older than the rules (mtls: permissive)
    #[arg(long)]
    permissive: bool,
    /// Let the kubelet's probes pass, from the address that istio-cni gives them. The node's rules
    /// against others who use it are lost when its firewall is reloaded: run this again then
    #[arg(long)]
    kubelet_probes: bool,
    /// What becomes of traffic that is not TCP: pass, count or drop. DNS and what IP needs of ICMP
    /// pass in any case
    #[arg(long, value_name = "VERDICT", default_value = "pass")]
    non_tcp: NonTcp,
}

impl RedirectArgs {
    fn options(&self) -> capture::Options {
        let Self { permissive, kubelet_probes, non_tcp, .. } = *self;
        capture::Options { strict: !permissive, kubelet_probes, non_tcp }
    }
}

pub(super) fn run(args: &RedirectArgs) -> u8 {
    let failed = |error: &dyn std::fmt::Display, code| {
        complain!("{}: {error}", args.netns);
        code
    };
    let netns = match open(&args.netns) {
        Ok(netns) => Arc::new(netns),
        Err(error) => {
            let names_none = [NotFound, InvalidInput, NotADirectory].contains(&error.kind());
            return failed(&error, if names_none { BAD_CONFIG } else { FAILED });
        }
    };
    match act(args, &netns) {
        Ok(()) => OK,
        Err(error) => failed(&error, FAILED),
    }
}

/// What nobody does once this command has exited.
const AFTER_A_FLUSH: &str = "applied; the node drops the address of the kubelet's probes where \
                             others use it, by rules that are lost when its firewall is reloaded: \
                             run this again then (`adit run` restores them by itself)";

fn open(named: &NetnsRef) -> io::Result<Netns> {
    let netns = Netns::open(&named.path())?;
    netns.run(|| ())?;
    Ok(netns)
}

fn act(args: &RedirectArgs, netns: &Arc<Netns>) -> Result<(), CaptureError> {
    let patience = CancellationToken::new();
    match args.verb {
        RedirectVerb::Apply => {
            capture::reachable(netns)?;
            if args.kubelet_probes {
                capture::guard_probes(netns, &patience)?;
            }
            let applied = capture::apply(netns, args.options(), &patience);
            match (args.kubelet_probes, &applied) {
                (false, _) => {}
                (true, Ok(())) => complain!("{}: {AFTER_A_FLUSH}", args.netns),
                (true, Err(_)) => capture::reconsider_guard(netns, &patience)?,
            }
            applied?;
        }
        RedirectVerb::Remove => capture::remove(netns, &patience)?,
        RedirectVerb::Show => say!("{:#}", capture::show(netns)?),
    }
    Ok(())
}
