//! How long a node survives without its source of SVIDs. Pure: the clock comes in.

use std::time::SystemTime;

use crate::identity::SpiffeId;

/// What is left, over all identities of the node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OutageBudget {
    /// Until the first of them runs out, in seconds; 0 if one has none. `None`: no identities.
    pub seconds: Option<u64>,
    /// Which runs out first.
    pub first: Option<SpiffeId>,
    /// Those that have no valid SVID, each with what its source last said.
    pub without: Vec<String>,
}

impl OutageBudget {
    /// From each identity: when its SVID ends, if it ever had one, and its last error.
    #[must_use]
    pub fn of(
        identities: impl Iterator<Item = (SpiffeId, Option<SystemTime>, Option<String>)>,
        now: SystemTime,
    ) -> Self {
        let mut budget = Self::default();
        for (id, end, error) in identities {
            let left = end.map_or(0, |end| seconds_left(end, now));
            if end.is_none_or(|end| end <= now) {
                let had = if end.is_some() { "the last has run out" } else { "none yet" };
                let error = error.map(|error| format!("; {error}")).unwrap_or_default();
                budget.without.push(format!("no valid SVID for {id}: {had}{error}"));
            }
            if budget.seconds.is_none_or(|least| left < least) {
                (budget.seconds, budget.first) = (Some(left), Some(id));
            }
        }
        budget.without.sort();
        budget.without.dedup();
        budget
    }
}

/// Whole seconds from `now` to `end`; 0 if that is past.
#[must_use]
pub fn seconds_left(end: SystemTime, now: SystemTime) -> u64 {
    end.duration_since(now).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_to_run_out_counts_and_who_has_none_is_named() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let id = |name: &str| format!("spiffe://td/{name}").parse::<SpiffeId>().unwrap();
        let budget = |all: &[(&str, Option<u64>)]| {
            let all = all.iter().map(|(name, end)| (id(name), end.map(at), None));
            OutageBudget::of(all, at(1000))
        };
        assert_eq!(budget(&[]), OutageBudget::default());
        let two = budget(&[("a", Some(4600)), ("b", Some(1300))]);
        assert_eq!((two.seconds, two.first, two.without.len()), (Some(300), Some(id("b")), 0));
        let ended = budget(&[("a", Some(4600)), ("b", Some(1000)), ("c", None)]);
        assert_eq!((ended.seconds, ended.first), (Some(0), Some(id("b"))));
        let named = [
            "no valid SVID for spiffe://td/b: the last has run out",
            "no valid SVID for spiffe://td/c: none yet",
        ];
        assert_eq!(ended.without, named);
    }
}
