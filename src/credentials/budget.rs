//! How long a node survives without its source of SVIDs. Pure: the clock comes in.

use std::time::SystemTime;

use super::rotation::Validity;
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
    /// Those of them that had one: pods that ran with it have lost it.
    pub lost: Vec<String>,
}

impl OutageBudget {
    /// From each identity: whether it ever had an SVID, when the last one counts, and its last
    /// error.
    #[must_use]
    pub fn of(
        identities: impl Iterator<Item = (SpiffeId, bool, Option<Validity>, Option<String>)>,
        now: SystemTime,
    ) -> Self {
        let mut budget = Self::default();
        for (id, has_had, svid, error) in identities {
            let valid = svid.filter(|svid| svid.covers(now));
            let left = valid.map_or(0, |svid| seconds_left(svid.until, now));
            if valid.is_none() {
                let had = match svid {
                    None if has_had => "the last was withdrawn",
                    None => "none yet",
                    Some(svid) if svid.from > now => {
                        "by this machine's clock the last is not valid yet"
                    }
                    Some(_) => "the last has expired",
                };
                let error = error.map(|error| format!("; {error}")).unwrap_or_default();
                let without = format!("no valid SVID for {id}: {had}{error}");
                if has_had {
                    budget.lost.push(without.clone());
                }
                budget.without.push(without);
            }
            if budget.seconds.is_none_or(|least| left < least) {
                (budget.seconds, budget.first) = (Some(left), Some(id));
            }
        }
        for names in [&mut budget.without, &mut budget.lost] {
            names.sort();
            names.dedup();
        }
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
            let svid = |end| Validity { from: at(900), until: at(end) };
            let all = all.iter().map(|(name, end)| (id(name), end.is_some(), end.map(svid), None));
            OutageBudget::of(all, at(1000))
        };
        assert_eq!(budget(&[]), OutageBudget::default());
        let two = budget(&[("a", Some(4600)), ("b", Some(1300))]);
        assert_eq!((two.seconds, two.first, two.without.len()), (Some(300), Some(id("b")), 0));
        let ended = budget(&[("a", Some(4600)), ("b", Some(1000)), ("c", None)]);
        assert_eq!((ended.seconds, ended.first), (Some(0), Some(id("b"))));
        let named = [
            "no valid SVID for spiffe://td/b: the last has expired",
            "no valid SVID for spiffe://td/c: none yet",
        ];
        assert_eq!(ended.without, named);
        assert_eq!(ended.lost, named[..1]);
        let early = Validity { from: at(1001), until: at(4600) };
        let early = OutageBudget::of([(id("a"), true, Some(early), None)].into_iter(), at(1000));
        assert_eq!(early.seconds, Some(0));
        assert!(
            early.without[0].ends_with("clock the last is not valid yet"),
            "{:?}",
            early.without
        );
    }
}
