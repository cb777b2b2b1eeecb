//! The pods that sources have announced, and the answers that sources wait for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::source::{Announcement, Answer, PodEvent, PodFacts, Refused};

/// No node has so many pods.
const MOST_PODS: usize = 16_384;

/// What all events so far come to.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    pods: BTreeMap<Arc<str>, Arc<PodFacts>>,
    /// Within a snapshot, those that it has not named yet.
    unnamed: Option<BTreeSet<Arc<str>>>,
    /// Who waits for an answer about a pod.
    waiting: HashMap<Arc<str>, Waiting>,
}

type Waiting = Vec<(Awaited, oneshot::Sender<Answer>)>;

/// What an event has asked for.
#[derive(Debug)]
pub(crate) enum Awaited {
    /// That the pod is attached.
    Attached(Arc<PodFacts>),
    /// That it is not.
    Gone,
}

impl Announced {
    /// Takes an event. Its answer comes once the manager has done it, has failed, or does not do it
    /// any more because of a later event.
    pub(crate) fn apply(&mut self, Announcement { event, answer }: Announcement) {
        match event {
            PodEvent::SnapshotBegins => {
                self.unnamed = Some(self.pods.keys().cloned().collect());
                let _ = answer.send(Ok(()));
            }
            PodEvent::Upsert(facts) if self.is_too_many(&facts) => {
                let why = format!("{MOST_PODS} pods are already announced, which is the limit");
                let _ = answer.send(Err(Refused(why)));
            }
            PodEvent::Kept(uid) => {
                self.unnamed.as_mut().map(|unnamed| unnamed.remove(&uid));
                let _ = answer.send(Ok(()));
            }
            PodEvent::Upsert(facts) => {
                let uid = Arc::clone(&facts.uid);
                // What came with it a second time, such as a descriptor, is not kept.
                let there = self.pods.get(&uid).filter(|there| **there == facts);
                let facts = there.map_or(facts, Arc::clone);
                self.unnamed.as_mut().map(|unnamed| unnamed.remove(&uid));
                self.pods.insert(Arc::clone(&uid), Arc::clone(&facts));
                self.replace(&uid, |asked| asked.is_same_pod(&facts));
                self.wait(uid, Awaited::Attached(facts), answer);
            }
            PodEvent::Removed(uid) => {
                self.unnamed.as_mut().map(|unnamed| unnamed.remove(&uid));
                self.remove(&uid);
                self.wait(uid, Awaited::Gone, answer);
            }
            PodEvent::SnapshotEnds => {
                for uid in self.unnamed.take().into_iter().flatten() {
                    self.remove(&uid);
                }
                let _ = answer.send(Ok(()));
            }
        }
    }

    fn is_too_many(&self, facts: &PodFacts) -> bool {
        self.pods.len() >= MOST_PODS && !self.pods.contains_key(&facts.uid)
    }

    /// The pods that are to be attached, in the order of their uids.
    pub(crate) fn pods(&self) -> &BTreeMap<Arc<str>, Arc<PodFacts>> {
        &self.pods
    }

    /// Answers whoever waits for what is so now.
    pub(crate) fn settle(&mut self, is_so: impl Fn(&str, &Awaited) -> bool) {
        self.waiting.retain(|uid, all| {
            answer(all, |awaited| is_so(uid, awaited).then_some(Ok(())));
            !all.is_empty()
        });
    }

    /// Answers whoever waits for this pod, which could not be attached.
    pub(crate) fn failed(&mut self, facts: &PodFacts, why: &str) {
        let Some(all) = self.waiting.get_mut(&facts.uid) else { return };
        answer(all, |awaited| match awaited {
            Awaited::Attached(asked) if asked.is_same_pod(facts) => {
                Some(Err(Refused(why.to_owned())))
            }
            Awaited::Attached(_) | Awaited::Gone => None,
        });
    }

    fn remove(&mut self, uid: &str) {
        self.pods.remove(uid);
        self.replace(uid, |_| false);
    }

    /// A later event about this pod has come: who asked for something else has the answer.
    fn replace(&mut self, uid: &str, stays: impl Fn(&PodFacts) -> bool) {
        let Some(all) = self.waiting.get_mut(uid) else { return };
        answer(all, |awaited| match awaited {
            Awaited::Attached(asked) if stays(asked) => None,
            Awaited::Attached(asked) => {
                let why = "it was removed or changed before it was attached";
                Some(Err(Refused(format!("pod {asked}: {why}"))))
            }
            Awaited::Gone => Some(Ok(())),
        });
    }

    fn wait(&mut self, uid: Arc<str>, awaited: Awaited, answer: oneshot::Sender<Answer>) {
        self.waiting.entry(uid).or_default().push((awaited, answer));
    }
}

/// Sends the answers that are found. Nobody waits where the receiver was dropped.
fn answer(all: &mut Waiting, find: impl Fn(&Awaited) -> Option<Answer>) {
    for (awaited, sender) in std::mem::take(all) {
        match find(&awaited) {
            Some(answer) => drop(sender.send(answer)),
            None if sender.is_closed() => {}
            None => all.push((awaited, sender)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mesh::{AppHop, NonTcp},
        pods::source::{Member, PodNetns},
    };

    impl Announced {
        /// Announces it, and gives back where the answer comes.
        fn hears(&mut self, event: PodEvent) -> oneshot::Receiver<Answer> {
            let (answer, answered) = oneshot::channel();
            self.apply(Announcement { event, answer });
            answered
        }
    }

    fn pod(name: &str, address: &str) -> Arc<PodFacts> {
        Arc::new(PodFacts {
            uid: format!("shop/{name}").into(),
            namespace: "shop".into(),
            name: name.into(),
            pod_uid: None,
            member: Member::Known {
                id: "spiffe://cluster.local/ns/shop/sa/default".parse().unwrap(),
                addresses: [address.parse().unwrap()].into(),
            },
            netns: PodNetns::Named(name.parse().unwrap()),
            app_hop: AppHop::Tcp,
            non_tcp: NonTcp::Pass,
        })
    }

    fn removed(uid: &str) -> PodEvent {
        PodEvent::Removed(uid.into())
    }

    #[test]
    fn a_snapshot_removes_what_it_does_not_name_or_keep() {
        let (web, db) = (pod("web", "10.0.0.1"), pod("db", "10.0.0.2"));
        let mut all = Announced::default();
        for event in [
            PodEvent::SnapshotBegins,
            PodEvent::Upsert(Arc::clone(&web)),
            PodEvent::Upsert(Arc::clone(&db)),
            PodEvent::SnapshotEnds,
        ] {
            drop(all.hears(event));
        }
        assert_eq!(all.pods().len(), 2);
        drop(all.hears(PodEvent::SnapshotBegins));
        drop(all.hears(PodEvent::Upsert(Arc::clone(&web))));
        assert_eq!(all.pods().len(), 2, "until it has ended");
        assert_eq!(all.hears(PodEvent::SnapshotEnds).try_recv(), Ok(Ok(())));
        assert_eq!(all.pods().values().collect::<Vec<_>>(), [&web]);
        drop(all.hears(PodEvent::SnapshotBegins));
        assert_eq!(all.hears(PodEvent::Kept("shop/web".into())).try_recv(), Ok(Ok(())));
        drop(all.hears(PodEvent::SnapshotEnds));
        assert_eq!(all.pods().len(), 1, "what is kept stays as it was");
        // Outside of a snapshot, its end says nothing.
        drop(all.hears(PodEvent::SnapshotEnds));
        assert_eq!(all.pods().len(), 1);
    }

    #[test]
    fn each_event_is_answered_once_it_is_done_or_refused() {
        let (web, db) = (pod("web", "10.0.0.1"), pod("db", "10.0.0.2"));
        let mut all = Announced::default();
        let mut first = all.hears(PodEvent::Upsert(Arc::clone(&web)));
        let mut again = all.hears(PodEvent::Upsert(Arc::clone(&web)));
        let mut other = all.hears(PodEvent::Upsert(Arc::clone(&db)));
        all.settle(|_, _| false);
        all.failed(&db, "no such namespace");
        assert_eq!(other.try_recv(), Ok(Err(Refused("no such namespace".to_owned()))));
        assert!(first.try_recv().is_err() && again.try_recv().is_err(), "not yet");
        all.settle(|uid, awaited| uid == "shop/web" && matches!(awaited, Awaited::Attached(_)));
        assert_eq!((first.try_recv(), again.try_recv()), (Ok(Ok(())), Ok(Ok(()))));
        let mut gone = all.hears(removed("shop/web"));
        assert!(gone.try_recv().is_err(), "it is still being stopped");
        all.settle(|_, awaited| matches!(awaited, Awaited::Gone));
        assert_eq!(gone.try_recv(), Ok(Ok(())));
        assert!(all.waiting.is_empty());
    }

    #[test]
    fn a_later_event_answers_the_one_before_it() {
        let mut all = Announced::default();
        let mut first = all.hears(PodEvent::Upsert(pod("web", "10.0.0.1")));
        let mut moved = all.hears(PodEvent::Upsert(pod("web", "10.0.0.7")));
        assert!(first.try_recv().unwrap().unwrap_err().0.contains("changed before"));
        // What has come of the first one is no answer to the second.
        all.failed(&pod("web", "10.0.0.1"), "no such namespace");
        assert!(moved.try_recv().is_err());
        let mut gone = all.hears(removed("shop/web"));
        assert!(moved.try_recv().unwrap().is_err());
        let back = all.hears(PodEvent::Upsert(pod("web", "10.0.0.7")));
        assert_eq!(gone.try_recv(), Ok(Ok(())));
        // Nobody waits for what nobody hears.
        drop(back);
        all.settle(|_, _| false);
        assert!(all.waiting.is_empty());
    }
}
