//! Which command a file is for.

use super::{
    Faults,
    reader::{self, documents},
};

/// The kinds of files, by the command that takes each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileKind {
    /// `adit run`
    Mesh,
    /// `adit proxy`
    Services,
    /// `adit ca serve`
    CaServer,
}

/// What a text is for, by its keys; `None` if they do not tell.
#[must_use]
pub fn kind(text: &str) -> Option<FileKind> {
    let documents = documents(text).ok()?;
    let keys = documents.first().map(reader::keys).unwrap_or_default();
    let any = |of: &[&str]| keys.iter().any(|key| of.contains(key));
    let mesh = any(&["ca", "workloads", "capture", "mtls", "federation", "workloadApi"]);
    match () {
        () if mesh => Some(FileKind::Mesh),
        () if any(&["attestors", "serverNames", "svidLifetime"]) => Some(FileKind::CaServer),
        () if any(&["services"]) && !any(&["trustDomain"]) => Some(FileKind::Services),
        () if any(&["trustDomain", "policies"]) => Some(FileKind::Mesh),
        () => None,
    }
}

/// The faults of a file of `wanted`; if it is for another command, that alone.
pub(super) fn or_other(faults: Faults, text: &str, wanted: FileKind) -> Faults {
    let (what, command) = match kind(text).filter(|kind| *kind != wanted) {
        None => return faults,
        Some(FileKind::Mesh) => ("a mesh", "adit run -c"),
        Some(FileKind::Services) => ("services", "adit proxy -c"),
        Some(FileKind::CaServer) => ("a CA server", "adit ca serve -c"),
    };
    let file = &faults.file;
    Faults::at_start(file, &format!("is the configuration of {what}: use `{command} {file}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Files, check_ca_server, check_standalone_for, parse};

    /// Files that readers copy: blocks that begin with `yaml`, or `yaml` and the file's name. Those
    /// of `yaml part` are looked at by `scripts/first_steps.py`.
    #[test]
    fn the_files_in_the_guides_are_right() {
        let (mut services, mut authorities, mut meshes) = (0, 0, 0);
        for guide in [
            include_str!("../guide/mesh.md"),
            include_str!("../guide/standalone.md"),
            include_str!("../guide/identity.md"),
        ] {
            for block in guide.split("```yaml").skip(1).filter_map(|b| Some(b.split_once("```")?.0))
            {
                let (named, block) = block.split_once('\n').unwrap();
                match kind(block) {
                    _ if named.trim() == "part" => {}
                    Some(FileKind::Services) => {
                        check_standalone_for("guide", block, Files::Elsewhere).unwrap();
                        services += 1;
                    }
                    Some(FileKind::CaServer) => {
                        check_ca_server("guide", block).map(drop).unwrap();
                        authorities += 1;
                    }
                    Some(FileKind::Mesh) => {
                        parse("guide", block).unwrap();
                        meshes += 1;
                    }
                    None => panic!("a block of no kind:\n{block}"),
                }
            }
        }
        assert_eq!((services, authorities, meshes), (3, 3, 2));
    }

    #[test]
    fn keys_tell_what_a_file_is_for() {
        for (text, is) in [
            ("trustDomain: td\nca: {}\nservices: []\n", Some(FileKind::Mesh)),
            ("services: []\ndrain: {}\n", Some(FileKind::Services)),
            ("trustDomain: td\nattestors: {}\n", Some(FileKind::CaServer)),
            ("trustDomain: td\nservices: []\n", Some(FileKind::Mesh)),
            ("a: b\n", None),
            ("- 1\n", None),
            ("[", None),
        ] {
            assert_eq!(kind(text), is, "{text}");
        }
    }
}
