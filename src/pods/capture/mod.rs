//! Redirecting a pod's TCP to adit: rules inside the pod's network namespace
//! (istio-ambient facts §2). What they say is in [`rules`]; this file applies them.
//!
//! Applying twice is the same as once, and removing what is not there is no error.

mod legacy;
mod non_tcp;
mod note;
mod probes;
mod redirects;
mod refusal;
mod report;
mod rules;
mod shape;
mod standing;
mod tools;

pub use legacy::LegacyTables;
pub use non_tcp::{Packets, judge_non_tcp, non_tcp_packets};
pub use note::Asked;
pub use probes::{guard_probes, probes_admitted, reconsider_guard, restore_guard};
pub use redirects::{OfFamily, Redirects};
pub use refusal::{FAMILIES, LASTS, Refused, admit_plaintext, refuse_plaintext};
pub use report::CaptureReport;
pub use standing::{AwaitedChanges, Changes, Standing};
pub use tools::CaptureError;

use std::{io, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{mesh::NonTcp, sys::netns::Netns};
use tools::Tools;

/// Who redirects traffic to adit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Capture {
    /// adit applies nft rules in each pod's namespace.
    Nft {
        /// What they let by.
        options: Options,
        /// Whether they are removed when adit stops: then plaintext reaches the pods.
        remove_on_stop: bool,
    },
    /// Somebody else does.
    None,
}

impl Capture {
    /// The rule options of a pod with this setting for non-TCP traffic; `None` if adit does not
    /// apply rules.
    #[must_use]
    pub fn options(self, non_tcp: NonTcp) -> Option<Options> {
        match self {
            Self::Nft { options, .. } => Some(Options { non_tcp, ..options }),
            Self::None => None,
        }
    }
}

/// What the rules let by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// Plaintext from before the rules is dropped too, not only what is redirected.
    pub strict: bool,
    /// What comes from the address that istio-cni gives the kubelet's probes passes, counted.
    pub kubelet_probes: bool,
    /// What happens to non-TCP traffic: pass, count or drop.
    pub non_tcp: NonTcp,
}

impl Default for Options {
    fn default() -> Self {
        Self { strict: true, kubelet_probes: false, non_tcp: NonTcp::Pass }
    }
}

/// Applies the rules inside `netns`, in place of those that are there: all of them, or none. Where
/// the address of probes is to pass, [`guard_probes`] comes first. Tools end when `stop` fires.
///
/// # Errors
/// [`CaptureError`]; rules that were there are then as they were.
pub fn apply(
    netns: &Arc<Netns>,
    options: Options,
    stop: &CancellationToken,
) -> Result<(), CaptureError> {
    reachable(netns)?;
    let tools = Tools { netns, stop };
    // Without the rules of nft, which come last and in one step, the rest of it does nothing.
    let before = routed(tools);
    let applied = policy_routing(tools).and_then(|()| shut(netns, options, stop));
    if applied.is_err() && !before {
        unroute(tools)?;
    }
    applied
}

/// Applies the nft rules alone, in a namespace in which no pod is attached: they block plaintext as
/// [`apply`] does.
///
/// # Errors
/// [`CaptureError`]; the rules are then as they were. None are ever removed: what protects the pod
/// stays.
pub fn shut(
    netns: &Arc<Netns>,
    options: Options,
    stop: &CancellationToken,
) -> Result<(), CaptureError> {
    Tools { netns, stop }.nft(&["-f", "-"], &rules::ruleset(options))?;
    if !options.kubelet_probes
        && let Err(error) = probes::unguard(netns, stop)
    {
        // They keep others from an address that nobody admits here any longer.
        tracing::warn!(%error, "the node's rules for the kubelet's probes could not be checked");
    }
    Ok(())
}

/// Whether what is redirected inside `netns` can reach anybody.
///
/// # Errors
/// [`CaptureError::LoDown`], or that the namespace cannot be entered.
pub fn reachable(netns: &Netns) -> Result<(), CaptureError> {
    match netns.is_up("lo")? {
        true => Ok(()),
        false => Err(CaptureError::LoDown),
    }
}

/// Whether the policy routing of an earlier start is there.
fn routed(tools: Tools<'_>) -> bool {
    let families = if has_ipv6(tools.netns).unwrap_or(true) { &["-4", "-6"][..] } else { &["-4"] };
    let stands = |family: &&str| !ip_rules(tools, family).is_empty();
    families.iter().all(stands)
}

fn ip_rules(tools: Tools<'_>, family: &str) -> Vec<String> {
    let text = tools.ip(&[family, "rule", "show", "priority", "32764"], "").unwrap_or_default();
    text.lines().map(ToOwned::to_owned).collect()
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

fn unroute(tools: Tools<'_>) -> Result<(), CaptureError> {
    for family in ["-4", "-6"] {
        // Each line may name something that is not there: -force goes on to the next.
        match tools.ip(&[family, "-force", "-batch", "-"], rules::UNROUTING) {
            Ok(_) | Err(CaptureError::Tool { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// Removes the rules from `netns`, and the node's own about the address of probes once no namespace
/// admits it. Tools end when `stop` fires.
///
/// # Errors
/// [`CaptureError`] if a tool is missing or the namespace cannot be entered.
pub fn remove(netns: &Arc<Netns>, stop: &CancellationToken) -> Result<(), CaptureError> {
    let tools = Tools { netns, stop };
    tools.nft(&["-f", "-"], rules::REMOVE)?;
    unroute(tools)?;
    probes::unguard(netns, stop)
}

/// Removes what stands in `netns` of a pod that others redirect, as it has left the mesh.
///
/// # Errors
/// [`CaptureError`]
pub fn leave(netns: &Arc<Netns>, stop: &CancellationToken) -> Result<(), CaptureError> {
    let all = [refusal::ADMIT, non_tcp::REMOVE].concat();
    Tools { netns, stop }.nft(&["-f", "-"], &all).map(drop)
}

/// What is captured inside `netns`, and by which rules.
///
/// # Errors
/// As [`remove`].
pub fn show(netns: &Arc<Netns>) -> Result<CaptureReport, CaptureError> {
    CaptureReport::of(netns)
}

fn has_ipv6(netns: &Arc<Netns>) -> io::Result<bool> {
    netns.run(|| {
        let disabled = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";
        std::fs::read_to_string(disabled).is_ok_and(|text| text.trim() == "0")
    })
}
