//! Who waits for which key.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::message::Answer;

/// From how many keys on those that nobody waits for are looked for.
const MANY: usize = 64;
/// How many may wait for one key.
const MOST_OF_ONE: usize = 4096;
/// For so long it is kept that a key was answered: nobody who looked before that still asks …
const KEPT: Duration = Duration::from_secs(10);
/// … and of so many keys.
const MOST_KEPT: usize = 4096;

/// A connection that waits for a key.
#[derive(Debug)]
pub(super) struct Demand {
    pub(super) key: Arc<str>,
    /// Since when, or later, it has not found the key.
    pub(super) looked: Instant,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    of_keys: HashMap<Arc<str>, Vec<oneshot::Sender<Answer>>>,
    /// What was answered a moment ago, and when.
    answered: HashMap<Arc<str>, (Instant, Answer)>,
}

impl Waiting {
    /// Answers a demand for what was answered after it had looked: others have waited for that, and
    /// it has come too late to. Returns any other.
    pub(super) fn unanswered(&self, demand: Demand) -> Option<Demand> {
        let answered = self.answered.get(&demand.key).filter(|(when, _)| *when >= demand.looked);
        let Some((_, answer)) = answered else { return Some(demand) };
        let _ = demand.answer.send(*answer);
        None
    }

    /// Keeps it, unless too many wait for the key. Returns keys that nobody waits for any more.
    pub(super) fn add(&mut self, demand: Demand) -> Vec<Arc<str>> {
        let Demand { key, answer, .. } = demand;
        let of_key = self.of_keys.entry(key).or_default();
        of_key.retain(|waits| !waits.is_closed());
        if of_key.len() < MOST_OF_ONE {
            of_key.push(answer);
        }
        if self.of_keys.len() < MANY { Vec::new() } else { self.abandoned() }
    }

    fn abandoned(&mut self) -> Vec<Arc<str>> {
        let nobody = |(_, of_key): &(&Arc<str>, &mut Vec<oneshot::Sender<Answer>>)| {
            of_key.iter().all(oneshot::Sender::is_closed)
        };
        let gone: Vec<_> =
            self.of_keys.iter_mut().filter(nobody).map(|(key, _)| Arc::clone(key)).collect();
        for key in &gone {
            self.of_keys.remove(key);
        }
        gone
    }

    /// Nobody will answer it.
    pub(super) fn refuse(&mut self, key: &str) {
        self.of_keys.remove(key);
    }

    pub(super) fn answer(&mut self, key: &Arc<str>, answer: Answer, now: Instant) {
        if self.answered.len() >= MOST_KEPT {
            self.answered.retain(|_, (when, _)| now - *when < KEPT);
        }
        if self.answered.len() < MOST_KEPT {
            self.answered.insert(Arc::clone(key), (now, answer));
        }
        for waits in self.of_keys.remove(key).into_iter().flatten() {
            // Who has gone meanwhile needs no answer.
            let _ = waits.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looked_before_an_answer_and_asks_after_it_is_answered_too() {
        let (mut waiting, key, start) =
            (Waiting::default(), Arc::from("/10.0.0.1"), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let asks = |waiting: &Waiting, looked| {
            let (answer, mut answered) = oneshot::channel();
            let demand = Demand { key: Arc::clone(&key), looked, answer };
            (waiting.unanswered(demand).is_some(), answered.try_recv().ok())
        };
        assert_eq!(asks(&waiting, at(1)), (true, None));
        waiting.answer(&key, Answer::Found, at(2));
        assert_eq!(asks(&waiting, at(1)), (false, Some(Answer::Found)));
        assert_eq!(asks(&waiting, at(3)), (true, None), "it has looked, and it is not there again");
    }

    #[test]
    fn of_no_more_than_so_many_keys_it_is_kept_what_was_answered() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        for n in 0..3 * MOST_KEPT {
            waiting.answer(&format!("/{n}").into(), Answer::Absent, start);
            assert!(waiting.answered.len() <= MOST_KEPT);
        }
        waiting.answer(&"/last".into(), Answer::Absent, start + KEPT);
        assert_eq!(waiting.answered.len(), 1);
    }
}
