//! Plaintext is refused to a pod that others have to redirect and do not, in each family of
//! addresses.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{CaptureError, rules, tools::Tools};
use crate::sys::netns::Netns;

/// The families of addresses, in nft's words; what is said of each stands in this order.
pub const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// That plaintext is refused in one family.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Refused {
    /// Whoever refuses it had seen the redirection stand.
    pub is_missed: bool,
}

/// For how long plaintext is refused without having been refused again. A process that hangs or is
/// away for less opens nothing; a pod that has left the mesh meanwhile is not closed for ever.
pub const LASTS: Duration = Duration::from_secs(20 * 60);

/// The table.
pub(super) const TABLE: &str = "adit-refuse";

/// Removes it, whether or not it is there.
pub(super) const ADMIT: &str = "
add table inet adit-refuse
delete table inet adit-refuse
";

/// A chain that nothing passes through: it tells whoever looks later what was known.
fn mark(family: &str, is_missed: bool) -> String {
    let what = if is_missed { "missed" } else { "refused" };
    format!("chain adit-{what}-{family} {{")
}

/// What keeps plaintext from a pod in these families: all TCP that others open to it, but for our own
/// ports, which is where a redirection leads, and the kubelet's probes, which istio-cni lets by. What
/// the pod has opened itself is answered, and what we open to it comes over `lo`.
///
/// Where no rules stood conntrack may not have run, and takes who speaks first later for whoever has
/// opened a connection. So nothing but a SYN begins one for the pod: what is open since then ends,
/// whoever has opened it, but for what we have.
pub(super) fn ruleset(families: [Option<Refused>; 2]) -> String {
    let of_probes = |end: &str| -> String {
        let lines = rules::PROBES.iter();
        lines.map(|(family, address)| format!("    {family} {end} {address} accept\n")).collect()
    };
    let (probed, answered) = (of_probes("saddr"), of_probes("daddr"));
    let (mut marks, mut elements) = (String::new(), Vec::new());
    for (family, refused) in FAMILIES.iter().zip(families) {
        let Some(refused) = refused else { continue };
        let _ = writeln!(marks, "  {}\n  }}", mark(family, refused.is_missed));
        elements.push(format!("{family} timeout {}s", LASTS.as_secs()));
    }
    let elements = elements.join(", ");
    format!(
        "{ADMIT}
table inet {TABLE} {{
  set refused {{
    typeof meta nfproto
    flags timeout
    elements = {{ {elements} }}
  }}
{marks}  chain adit-input {{
    type filter hook input priority filter; policy accept;
    meta nfproto != @refused accept
    iifname lo accept
    meta l4proto != tcp accept
    tcp flags & rst == rst accept
    tcp dport {{ 15006, 15008 }} accept
{probed}    ct direction original counter drop
    ct state invalid,untracked counter drop
  }}
  chain adit-postrouting {{
    type filter hook postrouting priority filter; policy accept;
    meta nfproto != @refused accept
    oifname lo accept
    meta l4proto != tcp accept
    meta mark & 0xfff == 0x539 accept
    tcp flags & rst == rst accept
    tcp sport {{ 15006, 15008 }} accept
{answered}    ct state new tcp flags & (fin | syn | ack) != syn counter drop
  }}
}}
"
    )
}

/// What the rules of the table, as nft lists them, say of a family, and whether that is still so: the
/// kernel takes out of the set whose time is over.
pub(super) fn said_of(family: &str, listed: &str) -> (Option<Refused>, bool) {
    let marked = |is_missed: &bool| listed.contains(&mark(family, *is_missed));
    let refused = [true, false].into_iter().find(marked).map(|is_missed| Refused { is_missed });
    let elements = listed.split_once("elements = {").map_or("", |(_, rest)| rest);
    let elements = elements.split_once('}').map_or("", |(elements, _)| elements);
    let is_held = elements.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == family);
    (refused, is_held)
}

/// Refuses plaintext to the pod of `netns` in these families, and in no other: those in which the
/// redirection that another program has to make is missing. The refusal ends with
/// [`admit_plaintext`], [`super::remove`], or after [`LASTS`].
///
/// # Errors
/// [`CaptureError`]; plaintext is then let by as before.
pub fn refuse_plaintext(
    netns: &Arc<Netns>,
    families: [Option<Refused>; 2],
    stop: &CancellationToken,
) -> Result<(), CaptureError> {
    Tools { netns, stop }.nft(&["-f", "-"], &ruleset(families)).map(drop)
}

/// Takes back [`refuse_plaintext`]; nothing happens where it was not called.
///
/// # Errors
/// [`CaptureError`]
pub fn admit_plaintext(netns: &Arc<Netns>, stop: &CancellationToken) -> Result<(), CaptureError> {
    Tools { netns, stop }.nft(&["-f", "-"], ADMIT).map(drop)
}
