//! The pods of a mesh file: an edit gives the events that lead from the file before it to this one.

use std::{collections::BTreeMap, sync::Arc};

use super::{PodEvent, PodFacts};
use crate::mesh::Workload;

/// The pods that the file names for this node.
#[derive(Debug, Default)]
pub(crate) struct FileSource {
    /// What was said of them; nothing before the first file.
    pods: Option<BTreeMap<Arc<str>, Arc<PodFacts>>>,
}

impl FileSource {
    /// The events of a file with these workloads of this node: a snapshot of the first one, the
    /// difference for each after it. A pod that has another namespace or identity now is removed
    /// and then upserted.
    pub(crate) fn read(&mut self, workloads: &[Arc<Workload>]) -> Vec<PodEvent> {
        let facts = workloads.iter().map(|w| (Arc::clone(&w.uid), Arc::new(PodFacts::of(w))));
        let now: BTreeMap<_, _> = facts.collect();
        let Some(before) = self.pods.replace(now.clone()) else {
            let all = now.into_values().map(PodEvent::Upsert);
            let begins = std::iter::once(PodEvent::SnapshotBegins);
            return begins.chain(all).chain([PodEvent::SnapshotEnds]).collect();
        };
        let removed = |(uid, was): (&Arc<str>, &Arc<PodFacts>)| {
            let stays = now.get(uid).is_some_and(|is| is.is_same_pod(was));
            (!stays).then(|| PodEvent::Removed(Arc::clone(uid)))
        };
        let mut events: Vec<_> = before.iter().filter_map(removed).collect();
        let differs = |is: &&Arc<PodFacts>| before.get(&is.uid) != Some(*is);
        events.extend(now.values().filter(differs).cloned().map(PodEvent::Upsert));
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const POD: &str = "{ name: web, namespace: shop, addresses: [10.0.0.1], netns: web }";

    /// The workloads of a file that names these pods.
    fn local(pods: &[&str]) -> Vec<Arc<Workload>> {
        let pods: String = pods.iter().map(|pod| format!("- {pod}\n")).collect();
        let head = "trustDomain: cluster.local\nca: { embedded: { dir: /tmp } }\n";
        parse("m", &format!("{head}workloads:\n{pods}")).unwrap().local_workloads()
    }

    /// A source that has read a file with [`POD`].
    fn source() -> FileSource {
        let mut source = FileSource::default();
        source.read(&local(&[POD]));
        source
    }

    fn removed(uid: &str) -> PodEvent {
        PodEvent::Removed(uid.into())
    }

    fn upsert(pod: &str) -> PodEvent {
        PodEvent::Upsert(Arc::new(PodFacts::of(&local(&[pod])[0])))
    }

    #[test]
    fn the_first_file_is_a_snapshot_and_one_with_other_comments_is_nothing_new() {
        let mut source = FileSource::default();
        let whole = [PodEvent::SnapshotBegins, upsert(POD), PodEvent::SnapshotEnds];
        assert_eq!(source.read(&local(&[POD])), whole);
        assert_eq!(source.read(&local(&[POD])), []);
        assert_eq!(source.read(&local(&[&format!("{POD} # the shop's front")])), []);
    }

    #[test]
    fn pods_that_come_and_go_are_told_one_by_one() {
        let mut source = source();
        let db = "{ name: db, namespace: shop, addresses: [10.0.0.2], netns: db }";
        assert_eq!(source.read(&local(&[POD, db])), [upsert(db)]);
        assert_eq!(source.read(&local(&[db])), [removed("shop/web")]);
        assert_eq!(source.read(&local(&[POD])), [removed("shop/db"), upsert(POD)]);
        assert_eq!(source.read(&[]), [removed("shop/web")]);
    }

    #[test]
    fn a_pod_with_another_namespace_identity_or_address_is_removed_and_upserted() {
        for (from, to) in [
            ("netns: web", "netns: web2"),
            ("netns: web", "netns: web, serviceAccount: other"),
            ("10.0.0.1", "10.0.0.7"),
        ] {
            let other = POD.replace(from, to);
            let events = source().read(&local(&[&other]));
            assert_eq!(events, [removed("shop/web"), upsert(&other)], "{to}");
        }
    }

    #[test]
    #[cfg_attr(not(feature = "sockmap"), ignore = "needs the cargo feature sockmap")]
    fn facts_that_leave_a_pod_the_same_are_upserted_alone() {
        for (from, to) in [("10.0.0.1", "10.0.0.1, 'fd00::1'"), ("netns", "appHop: sockmap, netns")]
        {
            let other = POD.replace(from, to);
            assert_eq!(source().read(&local(&[&other])), [upsert(&other)], "{to}");
        }
        let labelled = POD.replace("netns", "labels: { app: web }, netns");
        assert_eq!(source().read(&local(&[&labelled])), [], "labels are the mesh's");
    }
}
