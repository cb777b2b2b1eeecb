//! When authorities follow each other with nobody's help. Pure: no clock, no file; time comes in.
//!
//! The next one is prepared when half of the active one's lifetime is left, at most 30 days
//! before its end, and signs when a sixth is left, at most 7 days: so an SVID of up to a sixth
//! always fits. What expired leaves the bundle a day later.

use std::time::Duration;

use super::state::{Authority, AuthorityKind, AuthorityStatus};

/// How often peers elsewhere should look for a newer bundle (`spiffe_refresh_hint`).
pub(super) const REFRESH_HINT: Duration = Duration::from_secs(60);
const DAY: u64 = 86_400;
/// How long an authority must have been published before it signs: three times the refresh hint.
const PUBLISHED: u64 = 3 * REFRESH_HINT.as_secs();

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Due {
    Prepare,
    Activate,
    Remove(String),
}

/// The next thing that is due; ask again once it is done.
pub(super) fn due(kind: AuthorityKind, authorities: &[Authority], now: u64) -> Option<Due> {
    let with = |status| authorities.iter().find(|a| a.status == status);
    let active = with(AuthorityStatus::Active)?;
    let lifetime = active.not_after.saturating_sub(active.not_before);
    let left = active.not_after.saturating_sub(now);
    match with(AuthorityStatus::Prepared) {
        Some(next) => {
            let known = now.saturating_sub(next.since) >= PUBLISHED || left == 0;
            if left <= (lifetime / 6).min(7 * DAY) && known && next.not_after > now {
                return Some(Due::Activate);
            }
        }
        // A new root in place of an expired one is an operator's decision: every peer must trust
        // it.
        None if left == 0 && kind == AuthorityKind::X509 => {}
        None if left <= (lifetime / 2).min(30 * DAY) => return Some(Due::Prepare),
        None => {}
    }
    let gone = |a: &&Authority| a.status != AuthorityStatus::Active && a.not_after + DAY < now;
    authorities.iter().find(gone).map(|a| Due::Remove(a.id.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(id: &str, status: AuthorityStatus, not_before: u64, not_after: u64) -> Authority {
        let key = String::new();
        let since = not_before;
        Authority { id: id.into(), status, certificate: None, key, not_before, not_after, since }
    }

    fn at(authorities: &[Authority], now: u64) -> Option<Due> {
        due(AuthorityKind::X509, authorities, now)
    }

    #[test]
    fn the_next_is_prepared_at_half_and_signs_at_a_sixth() {
        let mut all = vec![authority("a", AuthorityStatus::Active, 0, 12 * DAY)];
        assert_eq!(at(&all, 6 * DAY - 1), None);
        assert_eq!(at(&all, 6 * DAY), Some(Due::Prepare));
        all.push(authority("b", AuthorityStatus::Prepared, 6 * DAY, 18 * DAY));
        assert_eq!(at(&all, 10 * DAY - 1), None);
        assert_eq!(at(&all, 10 * DAY), Some(Due::Activate));
        (all[0].status, all[1].status) = (AuthorityStatus::Old, AuthorityStatus::Active);
        assert_eq!(at(&all, 12 * DAY - 1), None);
        assert_eq!(at(&all, 12 * DAY), Some(Due::Prepare));
        all.push(authority("c", AuthorityStatus::Prepared, 12 * DAY, 24 * DAY));
        assert_eq!(at(&all, 13 * DAY), None);
        assert_eq!(at(&all, 13 * DAY + 1), Some(Due::Remove("a".into())));
    }

    #[test]
    fn a_long_lifetime_does_not_leave_a_key_lying_about_for_years() {
        let all = [authority("a", AuthorityStatus::Active, 0, 3650 * DAY)];
        assert_eq!(at(&all, 3619 * DAY), None);
        assert_eq!(at(&all, 3620 * DAY), Some(Due::Prepare));
    }

    #[test]
    fn whoever_was_away_too_long_publishes_before_use_if_there_is_time() {
        let late = 12 * DAY - 3600;
        let all = [
            authority("a", AuthorityStatus::Active, 0, 12 * DAY),
            authority("b", AuthorityStatus::Prepared, late, 24 * DAY),
        ];
        assert_eq!(at(&all[..1], late), Some(Due::Prepare));
        assert_eq!(at(&all, late + PUBLISHED - 1), None);
        assert_eq!(at(&all, late + PUBLISHED), Some(Due::Activate));
        assert_eq!(at(&all, 12 * DAY), Some(Due::Activate), "expired: there is no better");
        assert_eq!(at(&all[..1], 12 * DAY), None, "an expired root is an operator's to replace");
        assert_eq!(due(AuthorityKind::Jwt, &all[..1], 12 * DAY), Some(Due::Prepare));
        assert_eq!(at(&[], 0), None);
    }
}
