//! Restores the rules for non-TCP traffic where they were changed.

use std::sync::{PoisonError, atomic::Ordering};

use super::{RedirectWatch, WatchedPod};
use crate::{mesh::NonTcp, pods::turns::Turn};

impl RedirectWatch {
    /// Sets the rules for non-TCP traffic if they differ `now`: an earlier process may have left
    /// others, or another program may have changed them. Returns whether they are as they should
    /// be.
    pub(super) async fn judge(
        &self,
        turn: &mut Turn<'_>,
        watched: &WatchedPod,
        now: Option<NonTcp>,
    ) -> bool {
        let wanted = watched.non_tcp;
        let is_other = differs(now, wanted, watched.was_judged.load(Ordering::Relaxed));
        let done = match is_other {
            true => turn.judge_non_tcp(&watched.netns, wanted).await,
            false => Ok(()),
        };
        if watched.over.is_cancelled() {
            return false;
        }
        watched.was_judged.fetch_or(done.is_ok(), Ordering::Relaxed);
        let fault = done.err().map(|error| {
            let wanted = wanted.as_str();
            format!(
                "the rules for traffic other than TCP cannot be set (nonTcp: {wanted}): {error:#}"
            )
        });
        let mut known = watched.unjudged.lock().unwrap_or_else(PoisonError::into_inner);
        match &fault {
            Some(fault) if known.is_none() => {
                self.metrics.pods.rules_restored.with_label_values(&["failed"]).inc();
                tracing::error!(pod = %watched.pod, "{fault}");
            }
            None if is_other => {
                self.metrics.pods.rules_restored.with_label_values(&["restored"]).inc();
                tracing::warn!(
                    pod = %watched.pod, verdict = wanted.as_str(),
                    "another program changed the rules for traffic other than TCP in this pod; \
                     adit has restored them"
                );
            }
            _ => {}
        }
        let is_judged = fault.is_none();
        *known = fault;
        is_judged
    }
}

/// Whether the rules for non-TCP traffic must be set again. Those at the first look are an earlier
/// process's. Stricter ones later may be those of the next process, which takes over from this one.
fn differs(now: Option<NonTcp>, wanted: NonTcp, was_judged: bool) -> bool {
    match (now, was_judged) {
        (now, false) => now != Some(wanted),
        (None, true) => wanted != NonTcp::Pass,
        (Some(now), true) => now < wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_that_the_next_process_has_made_stricter_is_left_to_it() {
        let [pass, count, drop] = [NonTcp::Pass, NonTcp::Count, NonTcp::Drop];
        for (now, wanted, at_first, later) in [
            (Some(drop), drop, false, false),
            (Some(pass), drop, true, true),
            (None, drop, true, true),
            (Some(count), drop, true, true),
            (Some(drop), count, true, false),
            (Some(drop), pass, true, false),
            (None, pass, true, false),
        ] {
            let found = [false, true].map(|was_judged| differs(now, wanted, was_judged));
            assert_eq!(found, [at_first, later], "{now:?} {wanted:?}");
        }
    }
}
