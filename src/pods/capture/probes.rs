//! The address of the kubelet's probes: only the node itself may use it.
//!
//! The state is kept in the kernel, beside the node's rules: a map has one element, keyed by inode,
//! for each namespace that admits the address. Each element refers to a chain, and the kernel does
//! not delete a chain that is referred to: so the rules are removed with the last element,
//! whichever process added it.

use std::{
    sync::{Arc, Mutex, MutexGuard, TryLockError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{CaptureError, rules, tools::Tools};
use crate::sys::netns::Netns;

/// What stands for namespaces that are not known: rules with it are not removed.
const UNKNOWN: u32 = 0;

/// A namespace as an element.
fn element(netns: &Netns) -> u32 {
    u32::try_from(netns.key().1).unwrap_or(UNKNOWN)
}

/// Has the node, which is the namespace of this process, drop what others send from the address of
/// probes, for as long as `admitting` may admit it. Packets that never pass through the node are
/// not seen by this.
///
/// # Errors
/// [`CaptureError`]; the pod must then not accept traffic from that address.
pub fn guard_probes(admitting: &Netns, stop: &CancellationToken) -> Result<(), CaptureError> {
    let _turn = turn(stop)?;
    make(&[element(admitting)], stop)
}

/// The node's rules are changed one after the other, so that none of them is taken for another's.
static TURN: Mutex<()> = Mutex::new(());

fn turn(stop: &CancellationToken) -> Result<MutexGuard<'static, ()>, CaptureError> {
    loop {
        match TURN.try_lock() {
            Ok(turn) => return Ok(turn),
            Err(TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
            Err(_) if stop.is_cancelled() => return Err(CaptureError::Stopped { tool: "nft" }),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn make(elements: &[u32], stop: &CancellationToken) -> Result<(), CaptureError> {
    let node = Arc::new(Netns::current()?);
    Tools { netns: &node, stop }.nft(&["-f", "-"], &rules::guard(elements)).map(drop)
}

/// Restores the rules of [`guard_probes`] if they do not stand as those namespaces need them that
/// admit the address now, and says whether that was so. Whoever else needed them may not be known
/// then: they stay for good.
///
/// # Errors
/// As [`guard_probes`].
pub fn restore_guard(
    admitting: impl FnOnce() -> Vec<Arc<Netns>>,
    stop: &CancellationToken,
) -> Result<bool, CaptureError> {
    let _turn = turn(stop)?;
    let admitting = admitting();
    if admitting.is_empty() {
        return Ok(false);
    }
    let node = Arc::new(Netns::current()?);
    let tools = Tools { netns: &node, stop };
    let mut elements: Vec<u32> = admitting.iter().map(|netns| element(netns)).collect();
    let list = |family| match tools.nft(&["-nn", "list", "table", family, rules::GUARD], "") {
        Err(CaptureError::Tool { .. }) => Ok(String::new()),
        listed => listed,
    };
    let (routed, bridged) = (list("inet")?, list("bridge")?);
    let drops = |text: &str| rules::PROBES.iter().all(|(_, address)| text.contains(address));
    let known = |of: &u32| routed.contains(&rules::element(*of));
    if drops(&routed) && drops(&bridged) && elements.iter().all(known) {
        return Ok(false);
    }
    if !elements.iter().all(known) {
        elements.push(UNKNOWN);
    }
    make(&elements, stop)?;
    Ok(true)
}

/// Takes back [`guard_probes`] after its rules could not be applied, unless older ones admit.
///
/// # Errors
/// As [`guard_probes`].
pub fn reconsider_guard(left: &Arc<Netns>, stop: &CancellationToken) -> Result<(), CaptureError> {
    let tools = Tools { netns: left, stop };
    let rules = match tools.nft(&["list", "table", "inet", "adit-nat"], "") {
        Err(CaptureError::Tool { .. }) => String::new(),
        listed => listed?,
    };
    match rules::PROBES.iter().any(|(_, address)| rules.contains(address)) {
        true => Ok(()),
        false => unguard(left, stop),
    }
}

/// Records that this namespace no longer admits the address, and removes the node's rules if it was
/// the last one.
pub(super) fn unguard(left: &Netns, stop: &CancellationToken) -> Result<(), CaptureError> {
    let _turn = turn(stop)?;
    let node = Arc::new(Netns::current()?);
    let tools = Tools { netns: &node, stop };
    match tools.nft(&["list", "table", "inet", rules::GUARD], "") {
        Ok(_) => {}
        // There are none.
        Err(CaptureError::Tool { .. }) => return Ok(()),
        Err(other) => return Err(other),
    }
    tools.nft(&["-f", "-"], &rules::forget(element(left)))?;
    match tools.nft(&["-f", "-"], rules::UNGUARD) {
        // The chain is referred to.
        Err(CaptureError::Tool { stderr, .. }) if stderr.contains("busy") => Ok(()),
        done => done.map(drop),
    }
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
