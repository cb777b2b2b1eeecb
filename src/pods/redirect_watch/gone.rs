//! What is missed of the redirections of others, judged in each family of addresses.

use crate::pods::capture::{OfFamily, Redirects, Refused};

/// What is to be done about a pod, and what is told of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Gone {
    /// In which families plaintext that arrives is to be refused.
    pub(super) refused: [Option<Refused>; 2],
    /// In which families what the pod opens passes by.
    pub(super) outbound: [bool; 2],
    is_used: [bool; 2],
}

impl Gone {
    /// Of what there is `now`. Plaintext that arrives is missed where its redirection `has_stood`. A
    /// pod that was never seen with it may take plaintext by, and then has less; without any rules it
    /// has lost them: an earlier process has seen that, or others on this node are redirected
    /// (`is_told`), so that whoever makes the rules is understood. Where one family has rules the
    /// other may do without, unless it has had them, or most others have (`is_common`).
    pub(super) fn of(
        now: &Redirects,
        has_stood: [bool; 2],
        (is_told, is_common): ([bool; 2], [bool; 2]),
    ) -> Self {
        let all = &now.families;
        let has_none = |of: &OfFamily| !of.outbound && !of.inbound;
        let is_bare = all.iter().all(has_none);
        let was_known = has_stood.iter().chain(&is_told).any(|known| *known)
            || all.iter().any(|of| of.refused.is_some());
        let mut gone = Self { is_used: all.map(|of| of.is_used), ..Self::default() };
        for (at, of) in all.iter().enumerate().filter(|(_, of)| of.is_used) {
            let has_lost_all = !of.outbound && is_common[at] || is_bare && was_known;
            if !of.inbound && (has_stood[at] || has_lost_all) {
                gone.refused[at] = Some(Refused { is_missed: has_stood[at] });
            }
            let is_expected = has_stood[at] || is_common[at] || all.iter().all(|of| !of.outbound);
            gone.outbound[at] = !of.outbound && is_expected;
        }
        gone
    }

    /// Whether plaintext is to be refused at all.
    pub(super) fn refuses(&self) -> bool {
        self.refused.iter().any(Option::is_some)
    }

    /// Which families these are, where they are not all that the pod has.
    pub(super) fn named(&self, which: [bool; 2]) -> &'static str {
        let [ipv4, ipv6] = [0, 1].map(|at| self.is_used[at] && !which[at]);
        match (ipv4, ipv6) {
            (true, false) => " over IPv6",
            (false, true) => " over IPv4",
            (false, false) | (true, true) => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: OfFamily = OfFamily {
        is_used: true,
        outbound: false,
        inbound: false,
        refused: None,
        has_lapsed: false,
        is_legacy: false,
    };
    const BYPASS: OfFamily = OfFamily { outbound: true, ..NONE };
    const BOTH: OfFamily = OfFamily { inbound: true, ..BYPASS };
    const UNUSED: OfFamily = OfFamily { is_used: false, ..NONE };

    fn refused(of: OfFamily) -> OfFamily {
        OfFamily { refused: Some(Refused::default()), ..of }
    }

    fn gone(families: [OfFamily; 2], has_stood: [bool; 2], is_told: [bool; 2]) -> Gone {
        let now = Redirects { families, ..Redirects::default() };
        Gone::of(&now, has_stood, (is_told, is_told))
    }

    #[test]
    fn rules_that_one_pod_has_made_close_nobody_else() {
        let now = Redirects { families: [BOTH, NONE], ..Redirects::default() };
        let of = |is_common| Gone::of(&now, [true, false], ([true; 2], is_common));
        let alone = of([true, false]);
        assert_eq!((alone.refused[1], alone.outbound), (None, [false; 2]));
        assert!(of([true; 2]).refused[1].is_some());
    }

    #[test]
    fn what_never_stood_is_not_missed_once_the_rest_stands_again() {
        for (now, has_stood, is_told, expected) in [
            (NONE, false, false, false),
            (NONE, false, true, true),
            (refused(NONE), false, false, true),
            (NONE, true, false, true),
            // Who takes plaintext by has lost all, and has again what it had.
            (BYPASS, false, true, false),
            (refused(BYPASS), false, true, false),
            (refused(BYPASS), true, true, true),
            (BOTH, true, true, false),
            (refused(BOTH), true, true, false),
        ] {
            let gone = gone([now, UNUSED], [has_stood, false], [is_told, false]);
            assert_eq!(gone.refuses(), expected, "{now:?} {has_stood} {is_told}");
            assert_eq!((gone.refused[1], gone.outbound), (None, [!now.outbound, false]));
            let missed = gone.refused[0].is_some_and(|refused| refused.is_missed);
            assert_eq!(missed, expected && has_stood);
        }
    }

    #[test]
    fn rules_of_one_family_are_none_of_the_other() {
        let (no, v4, v6, yes) = ([false; 2], [true, false], [false, true], [true; 2]);
        for (now, has_stood, is_told, expected, outbound) in [
            ([BOTH, BOTH], yes, yes, no, no),
            // It had rules in both, or others have.
            ([BOTH, NONE], yes, no, v6, v6),
            ([BOTH, NONE], v4, yes, v6, v6),
            ([NONE, BOTH], yes, no, v4, v4),
            // Nobody here has rules in the other.
            ([BOTH, NONE], v4, v4, no, no),
            ([BOTH, UNUSED], yes, yes, no, no),
            // All of them are gone, so nobody knows whether the other had any.
            ([NONE, NONE], v4, v4, yes, yes),
            ([refused(NONE), refused(NONE)], no, no, yes, yes),
            ([refused(BOTH), refused(NONE)], v4, v4, no, no),
            // What takes plaintext by in one family and has lost all in the other.
            ([BYPASS, NONE], no, yes, v6, v6),
        ] {
            let gone = gone(now, has_stood, is_told);
            let found = gone.refused.map(|refused| refused.is_some());
            assert_eq!((found, gone.outbound), (expected, outbound), "{now:?} {has_stood:?}");
        }
    }

    #[test]
    fn a_family_is_named_where_the_other_is_well() {
        let both = gone([NONE, NONE], [true; 2], [true; 2]);
        let one = gone([NONE, UNUSED], [true; 2], [true; 2]);
        assert_eq!(both.named([true, false]), " over IPv4");
        assert_eq!(both.named([false, true]), " over IPv6");
        assert_eq!((both.named([true; 2]), one.named([true, false])), ("", ""));
    }
}
