//! Settings that take effect at a start only: which of them another reading of the file changes,
//! and where they stand in it.

use std::collections::BTreeMap;

use super::reader::Item;

/// How deep below the top the keys of settings are: `federation.serve.oidc`.
const DEPTH: usize = 3;

/// The lines of one file on which the keys of its settings stand.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeyLines(BTreeMap<String, usize>);

impl KeyLines {
    /// Those of a document: mappings only, so no entries of lists.
    pub(super) fn of(root: &Item<'_>) -> Self {
        let mut lines = BTreeMap::new();
        note(root, DEPTH, &mut lines);
        Self(lines)
    }

    /// The line of a key such as `limits.streams`; of the section that lacks it, if it is not
    /// there (any more).
    #[must_use]
    pub fn line(&self, key: &str) -> Option<usize> {
        let mut path = key;
        loop {
            if let Some(line) = self.0.get(path) {
                return Some(*line);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    /// The key and where it stands: `accessLog (mesh.yaml:7)`.
    #[must_use]
    pub fn place(&self, file: &str, key: &str) -> String {
        match self.line(key) {
            Some(line) => format!("{key} ({file}:{line})"),
            None => format!("{key} ({file})"),
        }
    }

    /// What operators are told of a setting that has changed: `accessLog (mesh.yaml:7): takes
    /// effect after a restart`.
    #[must_use]
    pub fn after_restart(&self, file: &str, key: &str) -> String {
        format!("{}: takes effect after a restart", self.place(file, key))
    }
}

fn note(item: &Item<'_>, depth: usize, lines: &mut BTreeMap<String, usize>) {
    for (line, inner) in item.keyed() {
        if depth > 1 {
            note(&inner, depth - 1, lines);
        }
        lines.insert(inner.path, line);
    }
}

/// The keys of those values that are others now.
pub(super) fn changed(settings: &[(&'static str, bool)]) -> Vec<&'static str> {
    settings.iter().filter(|(_, changed)| *changed).map(|(key, _)| *key).collect()
}

#[cfg(test)]
mod tests {
    use crate::config::{StandaloneFile, check_standalone, parse};

    const MESH: &str = "trustDomain: td\nca: { embedded: { dir: /tmp/ca } }\n";

    /// Two readings of a mesh file, without and with `more`: what waits for a restart.
    fn of_mesh(more: &str) -> Vec<String> {
        let read = |text: &str| parse("mesh.yaml", text).unwrap();
        let (then, now) = (read(MESH), read(&format!("{MESH}{more}")));
        let federation = then.federation.restart_keys(&now.federation);
        let keys = then.settings.restart_keys(&now.settings).into_iter().chain(federation);
        keys.map(|key| now.lines.after_restart("mesh.yaml", key)).collect()
    }

    #[test]
    fn each_changed_setting_is_named_with_its_key_and_its_line() {
        let waits = |place: &str| format!("{place}: takes effect after a restart");
        for (more, expected) in [
            ("", &[][..]),
            ("# accessLog\ndrain: { deadline: 9s }\n", &[]),
            ("accessLog: { format: text }\n", &[]),
            ("accessLog: { format: json }\n", &["accessLog (mesh.yaml:3)"]),
            (
                "#\nworkers: 3\naccessLog:\n  format: json\n",
                &["accessLog (mesh.yaml:5)", "workers (mesh.yaml:4)"],
            ),
            (
                "limits: { streams: 77,\n  callerTunnels: 5 }\ntimeouts: { connect: 7s }\n",
                &[
                    "timeouts.connect (mesh.yaml:5)",
                    "limits.streams (mesh.yaml:3)",
                    "limits.callerTunnels (mesh.yaml:4)",
                ],
            ),
            (
                "admin: { address: 'unix:/run/a' }\npeerExpiry: { grace: 1m }\n",
                &["admin (mesh.yaml:3)", "peerExpiry (mesh.yaml:4)"],
            ),
            ("federation:\n  stateDir: /tmp/other\n", &["federation.stateDir (mesh.yaml:4)"]),
        ] {
            let expected: Vec<_> = expected.iter().map(|place| waits(place)).collect();
            assert_eq!(of_mesh(more), expected, "{more}");
        }
    }

    #[test]
    fn a_setting_that_is_gone_is_named_with_the_section_or_the_file() {
        let read = |text: &str| check_standalone("s.yaml", text).unwrap();
        let keys = |then: &StandaloneFile, now: &StandaloneFile| -> Vec<String> {
            let keys = then.globals.restart_keys(&now.globals);
            keys.into_iter().map(|key| now.lines.place("s.yaml", key)).collect()
        };
        let then = read("services: []\nsyslog: true\nmetrics: { prefix: a, interval: 5s }\n");
        let now = read("services: []\n\nmetrics: { interval: 5s }\ndrain: { deadline: 1s }\n");
        assert_eq!(keys(&then, &now), ["metrics.prefix (s.yaml:3)", "syslog (s.yaml)"]);
        assert_eq!(keys(&now, &now), [""; 0]);
    }
}
