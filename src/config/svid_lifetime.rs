//! `svidLifetime`, in each section of whoever issues SVIDs.

use std::time::Duration;

use super::reader::Map;

/// The shortest that leaves time to renew.
const SHORTEST: Duration = Duration::from_secs(10);

/// How long an SVID is valid: as the section says, or else `default`.
pub(super) fn svid_lifetime(section: &Map<'_>, default: Duration) -> Option<Duration> {
    let Some(item) = section.get("svidLifetime") else { return Some(default) };
    let lifetime = item.duration();
    if lifetime.is_some_and(|lifetime| lifetime < SHORTEST) {
        item.fault("must be at least 10s: half of it is the time to renew");
    }
    lifetime
}
