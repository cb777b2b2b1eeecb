//! Which command a file is for.

use super::{
    Faults,
    reader::{self, documents},
};

/// The kinds of files, by the command that takes each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `adit run`
    Mesh,
    /// `adit proxy`
    Services,
    /// `adit ca serve`
    CaServer,
}

/// What a text is for, by its keys; `None` if they do not tell.
#[must_use]
pub fn kind(text: &str) -> Option<Kind> {
    let documents = documents(text).ok()?;
    let keys = documents.first().map(reader::keys).unwrap_or_default();
    let any = |of: &[&str]| keys.iter().any(|key| of.contains(key));
    let mesh = any(&["ca", "workloads", "capture", "mtls", "federation", "workloadApi"]);
    match () {
        () if mesh => Some(Kind::Mesh),
        () if any(&["attestors", "serverNames", "svidLifetime"]) => Some(Kind::CaServer),
        () if any(&["services"]) && !any(&["trustDomain"]) => Some(Kind::Services),
        () if any(&["trustDomain", "policies"]) => Some(Kind::Mesh),
        () => None,
    }
}

/// The faults of a file of `wanted`; if it is for another command, that alone.
pub(super) fn or_other(faults: Faults, text: &str, wanted: Kind) -> Faults {
    let (what, command) = match kind(text).filter(|kind| *kind != wanted) {
        None => return faults,
        Some(Kind::Mesh) => ("a mesh", "adit run -c"),
        Some(Kind::Services) => ("services, each in front of another", "adit proxy -c"),
        Some(Kind::CaServer) => ("a CA's server", "adit ca serve -c"),
    };
    let file = &faults.file;
    Faults::at_start(file, &format!("is the file of {what}; `{command} {file}` takes it"))
}
