//! The section `ca` of the mesh file: which source gives the SVIDs, exactly one.

use std::{path::PathBuf, time::Duration};

use super::reader::Item;

/// The shortest lifetime of an SVID that leaves time to renew it.
pub(super) const MIN_LIFETIME: Duration = Duration::from_secs(10);

/// Where SVIDs come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CaConfig {
    /// The CA inside adit.
    Embedded {
        /// Where its root is kept.
        dir: PathBuf,
        /// How long an SVID is valid.
        svid_lifetime: Duration,
    },
    /// istiod, or whoever speaks its CA API.
    Istiod(crate::ca::IstiodConfig),
}

/// Reads the section `ca`.
pub(super) fn read(item: &Item<'_>) -> Option<CaConfig> {
    const SOURCES: &[&str] = &["embedded", "files", "workloadApi", "istiod"];
    let ca = item.map(SOURCES);
    if let Some(item) = ca.get("istiod") {
        if ca.get("embedded").is_some() {
            item.fault("one source only: embedded is there too");
        }
        return super::istiod::read(&item).map(CaConfig::Istiod);
    }
    for other in &SOURCES[1..] {
        if let Some(item) = ca.get(other) {
            item.fault("this source is not built yet; use embedded");
        }
    }
    let embedded = ca.require("embedded")?.map(&["dir", "svidLifetime"]);
    let dir = embedded.require("dir")?.text()?.into();
    let hour = Duration::from_secs(3600);
    let lifetime = embedded.get("svidLifetime");
    let svid_lifetime = lifetime.as_ref().map_or(Some(hour), |l| l.duration())?;
    if let Some(item) = lifetime.filter(|_| svid_lifetime < MIN_LIFETIME) {
        item.fault("must be at least 10s: half of it is the time to renew");
    }
    Some(CaConfig::Embedded { dir, svid_lifetime })
}
