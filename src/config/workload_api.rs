//! The section `workloadApi` of the mesh file: where workloads fetch their SVIDs themselves, and
//! what is registered beyond the pods.

use std::{path::PathBuf, sync::Arc};

use super::reader::{Item, Map};
use crate::{
    identity::{SpiffeId, TrustDomain},
    mesh::Workload,
    spiffe_api::workload_api::{Entry, Selectors},
};

/// The longest hint, bytes (Workload API §5.2.1 wants a limit of 1024).
const HINT: usize = 1024;
/// Each entry has an SVID that is kept and renewed.
const ENTRIES: usize = 1000;

/// The Workload API of this process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkloadApiConfig {
    /// The socket.
    pub socket: PathBuf,
    /// Who may connect at all; what they get is another matter.
    pub mode: u32,
    /// Identities beyond those of the pods.
    pub entries: Vec<Entry>,
}

/// Reads the section.
pub(super) fn read(
    item: &Item<'_>,
    domain: &TrustDomain,
    workloads: &[Workload],
) -> Option<WorkloadApiConfig> {
    let section = item.map(&["socket", "mode", "entries"]);
    let socket = section.require("socket").and_then(|item| {
        let path = PathBuf::from(item.text()?);
        // The kernel's own limit on the path of a socket, with its final zero.
        if !path.is_absolute() || path.as_os_str().len() > 107 {
            item.fault("expected an absolute path of at most 107 bytes");
        }
        Some(path)
    });
    let modes = [("0600", 0o600), ("600", 0o600), ("0660", 0o660), ("660", 0o660)];
    let modes = [&modes[..], &[("0666", 0o666), ("666", 0o666)]].concat();
    let mode = section.get("mode").map_or(Some(0o666), |item| item.word(&modes));
    let items = section.list("entries");
    if items.len() > ENTRIES {
        section.of.fault(format!("{} entries, the limit is {ENTRIES}", items.len()));
    }
    let entries = items.iter().filter_map(|item| entry(item, domain, workloads)).collect();
    Some(WorkloadApiConfig { socket: socket?, mode: mode?, entries })
}

fn entry(item: &Item<'_>, domain: &TrustDomain, workloads: &[Workload]) -> Option<Entry> {
    let map = item.map(&["id", "hint", "selectors"]);
    let id = map.require("id").and_then(|item| identity(&item, domain));
    let hint = map.get("hint").map_or(Some(String::new()), |item| {
        let hint = item.text()?;
        if hint.len() > HINT {
            item.fault(format!("longer than {HINT} bytes"));
        }
        Some(hint)
    });
    let selectors = map.require("selectors").and_then(|item| selectors(&item, workloads));
    Some(Entry { id: id?, hint: hint?.into(), selectors: selectors? })
}

/// A SPIFFE ID, or its path in our trust domain.
fn identity(item: &Item<'_>, domain: &TrustDomain) -> Option<SpiffeId> {
    let text = item.text()?;
    let uri = if text.starts_with('/') { format!("spiffe://{domain}{text}") } else { text };
    match uri.parse::<SpiffeId>() {
        Ok(id) if id.trust_domain() != domain => {
            item.fault(format!("{id} is not in the trust domain {domain}"));
        }
        Ok(id) if id.path().is_empty() => {
            item.fault(format!("{id} names the trust domain itself; add a path"));
        }
        Ok(id) => return Some(id),
        Err(e) => {
            item.fault(format!("{uri:?}: {e}; for example /backup or spiffe://{domain}/backup"))
        }
    }
    None
}

fn selectors(item: &Item<'_>, workloads: &[Workload]) -> Option<Selectors> {
    let map = item.map(&["uid", "gid", "path", "workload", "podUid"]);
    if map.is_empty() {
        item.fault("at least one selector must say which processes get this identity");
        return None;
    }
    let number = |map: &Map<'_>, key| map.get(key).map(|item| item.parse::<u32>("1000"));
    let text = |key| map.get(key).map(|item| item.text());
    let path = map.get("path").map(|item| {
        let path = PathBuf::from(item.text()?);
        if !path.is_absolute() {
            item.fault("expected an absolute path, such as /usr/bin/backup");
        }
        Some(path)
    });
    let workload = map.get("workload").map(|item| {
        let uid: Arc<str> = item.text()?.into();
        if !workloads.iter().any(|w| w.uid == uid) {
            item.fault(format!("there is no workload {uid}"));
        }
        Some(uid)
    });
    if path.is_some() && map.get("uid").is_none() && map.get("gid").is_none() {
        item.fault(
            "path alone is not enough: every user who may run the program would match; add uid or \
             gid",
        );
        return None;
    }
    // A selector that is there and wrong must not count as absent.
    Some(Selectors {
        uid: number(&map, "uid").map_or(Some(None), |n| n.map(Some))?,
        gid: number(&map, "gid").map_or(Some(None), |n| n.map(Some))?,
        path: path.map_or(Some(None), |p| p.map(Some))?,
        workload: workload.map_or(Some(None), |w| w.map(Some))?,
        pod_uid: text("podUid").map_or(Some(None), |t| t.map(|t| Some(t.into())))?,
    })
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    fn faults(section: &str) -> Vec<String> {
        let text = format!(
            "trustDomain: td\nca: {{ embedded: {{ dir: /ca }} }}\nworkloads:\n- {{ name: web, \
             namespace: shop, addresses: [10.0.0.1] }}\nworkloadApi: {section}\n"
        );
        let parsed = parse("mesh.yaml", &text);
        parsed.err().map_or(Vec::new(), |all| all.faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_section_that_is_right() {
        let entries = "[{ id: /a, selectors: { uid: 0 } }, { id: \"spiffe://td/b\", hint: b, \
                       selectors: { gid: 5, path: /bin/b, workload: shop/web, podUid: x } }]";
        let right = format!("{{ socket: /run/adit/agent.sock, mode: 0660, entries: {entries} }}");
        assert_eq!(faults(&right), [""; 0]);
        assert_eq!(faults("{ socket: /run/adit/agent.sock }"), [""; 0]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (section, needle) in [
            ("{ socket: agent.sock }", "absolute path"),
            ("{ mode: 0666 }", "socket is missing"),
            ("{ socket: /s, mode: 0777 }", "must be"),
            ("{ socket: /s, mode: 0o600 }", "must be"),
            ("{ socket: /s, entries: [{ id: /a }] }", "selectors is missing"),
            ("{ socket: /s, entries: [{ id: /a, selectors: {} }] }", "at least one selector"),
            ("{ socket: /s, entries: [{ id: /a/, selectors: { uid: 1 } }] }", "trailing slash"),
            ("{ socket: /s, entries: [{ id: a, selectors: { uid: 1 } }] }", "spiffe://"),
            (
                "{ socket: /s, entries: [{ id: \"spiffe://td\", selectors: { uid: 1 } }] }",
                "names the trust domain itself",
            ),
            (
                "{ socket: /s, entries: [{ id: \"spiffe://other/a\", selectors: { uid: 1 } }] }",
                "is not in the trust domain td",
            ),
            ("{ socket: /s, entries: [{ id: /a, selectors: { uid: -1 } }] }", "uid"),
            ("{ socket: /s, entries: [{ id: /a, selectors: { user: 1 } }] }", "unknown key"),
            (
                "{ socket: /s, entries: [{ id: /a, selectors: { uid: 1, path: tool } }] }",
                "absolute path",
            ),
            (
                "{ socket: /s, entries: [{ id: /a, selectors: { path: /bin/b } }] }",
                "entries[0].selectors: path alone is not enough",
            ),
            (
                "{ socket: /s, entries: [{ id: /a, selectors: { path: /bin/b, podUid: x } }] }",
                "add uid or gid",
            ),
            (
                "{ socket: /s, entries: [{ id: /a, selectors: { workload: shop/db } }] }",
                "there is no workload shop/db",
            ),
        ] {
            let found = faults(section);
            assert!(found.iter().any(|f| f.contains(needle)), "{section}: {found:?}");
        }
    }
}
