//! The address of the kubelet's probes: only the node itself may use it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{CaptureError, Tools, rules};
use crate::sys::netns::Netns;

/// Has the node, which is the namespace of this process, drop what others send from the address of
/// probes. Packets that never pass through the node are not seen by this.
///
/// # Errors
/// [`CaptureError`]; then nobody may be admitted by that address.
pub fn guard_probes(stop: &CancellationToken) -> Result<(), CaptureError> {
    let node = Arc::new(Netns::current()?);
    Tools { netns: &node, stop }.nft(&["-f", "-"], &rules::guard()).map(drop)
}

/// Whether the rules of [`guard_probes`] stand.
#[must_use]
pub fn probes_guarded(stop: &CancellationToken) -> bool {
    let Ok(node) = Netns::current().map(Arc::new) else { return false };
    let tools = Tools { netns: &node, stop };
    let stands = |family| {
        let listed = tools.nft(&["list", "table", family, rules::GUARD], "");
        listed.is_ok_and(|text| rules::PROBES.iter().all(|(_, address)| text.contains(address)))
    };
    stands("inet") && stands("bridge")
}

/// How many connections the rules of `netns` have admitted by the address of probes.
///
/// # Errors
/// As [`super::remove`], and if there are no such rules.
pub fn probes_admitted(netns: &Arc<Netns>, stop: &CancellationToken) -> Result<u64, CaptureError> {
    let tools = Tools { netns, stop };
    let text = tools.nft(&["list", "counter", "inet", "adit-nat", "adit-probes"], "")?;
    Ok(packets(&text).unwrap_or(0))
}

/// The first packet of a connection is the one that nat sees.
fn packets(text: &str) -> Option<u64> {
    text.split_whitespace().skip_while(|word| *word != "packets").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_what_nft_prints() {
        let text =
            "table inet adit-nat {\n\tcounter adit-probes {\n\t\tpackets 12 bytes 720\n\t}\n}";
        assert_eq!(packets(text), Some(12));
        assert_eq!(packets("Error: No such file or directory"), None);
    }
}
