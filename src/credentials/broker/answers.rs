//! What was answered for each pod: no two have one key, and together they say who is trusted.
//!
//! A bundle in an answer is for that pod only (Broker API §4.2). The node has one set of bundles,
//! so a trust domain is in it if all answers have it, with the authorities that all name; what any
//! of them revokes is revoked. Answers whose SVID has run out do not count beside others, and JWT
//! authorities only of pods for which some were told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;

use crate::{
    credentials::workload_api::{client::KeySets, source::with_jwt_authorities},
    identity::{BundleSet, TrustBundle},
};

/// All of them.
#[derive(Default)]
pub(super) struct Answers {
    by_pod: Mutex<BTreeMap<Arc<str>, PodAnswers>>,
    trusted: watch::Sender<Arc<BundleSet>>,
}

#[derive(Default)]
struct PodAnswers {
    x509: Option<PodAnswer>,
    jwt: Option<KeySets>,
}

/// What a pod was given.
pub(super) struct PodAnswer {
    /// SubjectPublicKeyInfo.
    pub(super) public_key: Vec<u8>,
    pub(super) not_after: SystemTime,
    pub(super) bundles: BundleSet,
}

impl Answers {
    pub(super) fn trusted(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.trusted.subscribe()
    }

    /// A pod is asked for; answers for others are not kept.
    pub(super) fn begin(&self, uid: &Arc<str>) {
        self.lock().insert(Arc::clone(uid), PodAnswers::default());
    }

    /// Its newest answer.
    ///
    /// # Errors
    /// The pod that has this key already.
    pub(super) fn take(&self, uid: &str, answer: PodAnswer) -> Result<(), Arc<str>> {
        let mut pods = self.lock();
        let has =
            |pod: &PodAnswers| pod.x509.as_ref().is_some_and(|a| a.public_key == answer.public_key);
        if let Some((other, _)) = pods.iter().find(|(of, pod)| ***of != *uid && has(pod)) {
            return Err(Arc::clone(other));
        }
        if let Some(pod) = pods.get_mut(uid) {
            pod.x509 = Some(answer);
        }
        self.tell(&pods);
        Ok(())
    }

    /// What it had may not be used any more.
    pub(super) fn withdraw(&self, uid: &str) {
        let mut pods = self.lock();
        if let Some(pod) = pods.get_mut(uid) {
            pod.x509 = None;
        }
        self.tell(&pods);
    }

    /// The JWT authorities for a pod; `None` if it may not have any.
    pub(super) fn jwt(&self, uid: &str, sets: Option<KeySets>) {
        let mut pods = self.lock();
        if let Some(pod) = pods.get_mut(uid) {
            pod.jwt = sets;
        }
        self.tell(&pods);
    }

    /// The pod is gone.
    pub(super) fn end(&self, uid: &str) {
        let mut pods = self.lock();
        pods.remove(uid);
        self.tell(&pods);
    }

    fn tell(&self, pods: &BTreeMap<Arc<str>, PodAnswers>) {
        let now = SystemTime::now();
        let bundles = common(pods, |answer| answer.not_after > now)
            .or_else(|| common(pods, |_| true))
            .unwrap_or_default();
        self.trusted.send_if_modified(|known| {
            let changed = **known != bundles;
            if changed {
                *known = Arc::new(bundles);
            }
            changed
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, PodAnswers>> {
        self.by_pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all answers that count agree on; `None` if none counts.
fn common(
    pods: &BTreeMap<Arc<str>, PodAnswers>,
    counts: impl Fn(&PodAnswer) -> bool,
) -> Option<BundleSet> {
    let mut all = pods.values().filter_map(|p| Some((p.x509.as_ref().filter(|a| counts(a))?, p)));
    let (first, pod) = all.next()?;
    let mut shared: Vec<TrustBundle> = first.bundles.iter().cloned().collect();
    let mut with_jwt: Vec<BundleSet> = Vec::new();
    let mut add_jwt = |answer: &PodAnswer, pod: &PodAnswers| {
        let sets = pod.jwt.as_ref();
        with_jwt.extend(sets.map(|sets| with_jwt_authorities(&answer.bundles, sets)));
    };
    add_jwt(first, pod);
    for (answer, pod) in all {
        add_jwt(answer, pod);
        shared.retain_mut(|bundle| {
            let Some(other) = answer.bundles.get(&bundle.trust_domain) else { return false };
            bundle.authorities.retain(|authority| other.authorities.contains(authority));
            let more = other.crls.iter().filter(|crl| !bundle.crls.contains(crl));
            let more: Vec<_> = more.cloned().collect();
            bundle.crls.extend(more);
            true
        });
    }
    for bundle in &mut shared {
        let authorities = |set: &BundleSet| {
            set.get(&bundle.trust_domain).map(|b| b.jwt_authorities.clone()).unwrap_or_default()
        };
        let Some((first, rest)) = with_jwt.split_first() else { continue };
        let mut agreed = authorities(first);
        for other in rest.iter().map(authorities) {
            agreed.retain(|authority| other.contains(authority));
        }
        bundle.jwt_authorities = agreed;
    }
    Some(shared.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(key: u8, domains: &[(&str, &[u8])], valid: bool) -> PodAnswer {
        let bundle = |(domain, authorities): &(&str, &[u8])| {
            let authorities = authorities.iter().map(|a| vec![*a].into()).collect();
            TrustBundle::new(domain.parse().unwrap(), authorities)
        };
        let now = SystemTime::now();
        let minute = Duration::from_secs(60);
        let not_after = if valid { now + minute } else { now - minute };
        let bundles = domains.iter().map(bundle).collect();
        PodAnswer { public_key: vec![key], not_after, bundles }
    }

    fn trusted(answers: &Answers) -> Vec<(String, Vec<u8>)> {
        let bundles = answers.trusted().borrow().clone();
        let all = bundles.iter().map(|b| {
            let authorities = b.authorities.iter().map(|a| a.as_ref()[0]).collect();
            (b.trust_domain.to_string(), authorities)
        });
        all.collect()
    }

    fn expect(all: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
        all.iter().map(|(d, a)| ((*d).to_owned(), a.to_vec())).collect()
    }

    #[test]
    fn only_what_all_answers_trust_is_trusted() {
        let answers = Answers::default();
        ["a", "b"].iter().for_each(|uid| answers.begin(&(*uid).into()));
        answers.take("a", answer(1, &[("td", &[1, 2]), ("other", &[9])], true)).unwrap();
        assert_eq!(trusted(&answers), expect(&[("other", &[9]), ("td", &[1, 2])]));
        answers.take("b", answer(2, &[("td", &[2, 3])], true)).unwrap();
        assert_eq!(trusted(&answers), expect(&[("td", &[2])]));
        answers.take("b", answer(2, &[("td", &[3])], false)).unwrap();
        let alone = expect(&[("other", &[9]), ("td", &[1, 2])]);
        assert_eq!(trusted(&answers), alone, "b's SVID has run out, so b needs nobody");
        answers.withdraw("a");
        assert_eq!(trusted(&answers), expect(&[("td", &[3])]), "nothing better is known");
        answers.end("b");
        assert_eq!(trusted(&answers), expect(&[]));
    }

    #[test]
    fn a_key_is_of_one_pod_until_that_is_gone() {
        let answers = Answers::default();
        ["a", "b"].iter().for_each(|uid| answers.begin(&(*uid).into()));
        answers.take("a", answer(1, &[], true)).unwrap();
        answers.take("a", answer(1, &[], true)).unwrap();
        assert_eq!(answers.take("b", answer(1, &[], true)), Err("a".into()));
        answers.end("a");
        answers.take("b", answer(1, &[], true)).unwrap();
    }
}
