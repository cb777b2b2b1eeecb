//! Places for connections that nobody has vouched for yet: so many in all, so many for each
//! source. Where they are full the newest is not turned away: the oldest that has proven nothing
//! goes, of the source that has most of them, so that many silent callers lock nobody out.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// The places of one endpoint.
#[derive(Debug)]
pub struct Places<K>(Arc<Mutex<PlaceBooks<K>>>);

impl<K> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct PlaceBooks<K> {
    most: usize,
    of_one: usize,
    next: u64,
    taken: usize,
    sources: HashMap<K, SourcePlaces>,
}

/// What one source has, oldest first.
#[derive(Debug, Default)]
struct SourcePlaces {
    unproven: BTreeMap<u64, CancellationToken>,
    proven: BTreeMap<u64, CancellationToken>,
}

impl SourcePlaces {
    fn len(&self) -> usize {
        self.unproven.len() + self.proven.len()
    }
}

/// A place, until dropped or given up for somebody else.
#[derive(Debug)]
pub struct Place<K: Clone + Eq + Hash> {
    all: Places<K>,
    of: K,
    number: u64,
    gone: CancellationToken,
}

impl<K: Clone + Eq + Hash> Places<K> {
    /// At most `most`, and at most `of_one` for each source.
    #[must_use]
    pub fn new(most: usize, of_one: usize) -> Self {
        let books = PlaceBooks { most, of_one, next: 0, taken: 0, sources: HashMap::new() };
        Self(Arc::new(Mutex::new(books)))
    }

    /// A place for a connection from `of`; `None` where nobody can be asked to go.
    #[must_use]
    pub fn take(&self, of: K) -> Option<Place<K>> {
        self.take_with(of, oldest_unproven)
    }

    /// As [`Self::take`], but where nobody else can be asked to go, the oldest connection of the
    /// same source is closed for its newest, though it has proven itself.
    #[must_use]
    pub fn take_from_oldest(&self, of: K) -> Option<Place<K>> {
        self.take_with(of, oldest)
    }

    fn take_with(
        &self,
        of: K,
        own: impl Fn(&SourcePlaces) -> Option<(u64, bool)>,
    ) -> Option<Place<K>> {
        let mut books = self.lock();
        let has = books.sources.get(&of).map_or(0, SourcePlaces::len);
        let of_own = || books.sources.get(&of).and_then(&own).map(|(n, p)| (of.clone(), n, p));
        let victim = if has >= books.of_one {
            Some(of_own()?)
        } else if books.taken >= books.most {
            Some(books.victim(has).or_else(of_own)?)
        } else {
            None
        };
        if let Some((whose, number, proven)) = victim {
            books.give_up(&whose, number, proven);
        }
        let (number, gone) = (books.next, CancellationToken::new());
        books.next += 1;
        books.taken += 1;
        books.sources.entry(of.clone()).or_default().unproven.insert(number, gone.clone());
        Some(Place { all: self.clone(), of, number, gone })
    }

    /// How many a source has.
    #[must_use]
    pub fn of(&self, source: &K) -> usize {
        self.lock().sources.get(source).map_or(0, SourcePlaces::len)
    }

    fn lock(&self) -> MutexGuard<'_, PlaceBooks<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn oldest_unproven(source: &SourcePlaces) -> Option<(u64, bool)> {
    source.unproven.keys().next().map(|number| (*number, false))
}

/// The oldest of all, proven or not.
fn oldest(source: &SourcePlaces) -> Option<(u64, bool)> {
    let proven = source.proven.keys().next().map(|number| (*number, true));
    oldest_unproven(source).into_iter().chain(proven).min()
}

impl<K: Clone + Eq + Hash> PlaceBooks<K> {
    /// Who goes for a source that has `has`: of those that have proven nothing the oldest of the
    /// source with most; where all have, the oldest of a source that has far more than the new one.
    fn victim(&self, has: usize) -> Option<(K, u64, bool)> {
        let silent = self.sources.iter().max_by_key(|(_, source)| source.unproven.len());
        if let Some((of, source)) = silent
            && let Some((number, proven)) = oldest_unproven(source)
        {
            return Some((of.clone(), number, proven));
        }
        let (of, source) = self.sources.iter().max_by_key(|(_, source)| source.len())?;
        let number = source.proven.keys().next().filter(|_| source.len() > has + 1)?;
        Some((of.clone(), *number, true))
    }

    fn give_up(&mut self, of: &K, number: u64, proven: bool) {
        let Some(source) = self.sources.get_mut(of) else { return };
        let place = if proven { &mut source.proven } else { &mut source.unproven };
        if let Some(gone) = place.remove(&number) {
            gone.cancel();
            self.taken -= 1;
        }
        if source.len() == 0 {
            self.sources.remove(of);
        }
    }
}

impl<K: Clone + Eq + Hash> Place<K> {
    /// The caller has shown that it is allowed.
    pub fn prove(&self) {
        let mut books = self.all.lock();
        if let Some(source) = books.sources.get_mut(&self.of)
            && let Some(gone) = source.unproven.remove(&self.number)
        {
            source.proven.insert(self.number, gone);
        }
    }

    /// Waits until somebody else needs the place: the connection is to be closed. Cancel safe.
    pub async fn given_up(&self) {
        self.gone.cancelled().await;
    }

    /// Ends when somebody else needs the place.
    #[must_use]
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut books = self.all.lock();
        for proven in [false, true] {
            books.give_up(&self.of, self.number, proven);
        }
    }
}

/// Whose an address is: an IPv6 host has its /64 to itself.
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_gone<K: Clone + Eq + Hash>(place: &Place<K>) -> bool {
        place.gone.is_cancelled()
    }

    #[test]
    fn the_oldest_that_has_proven_nothing_goes() {
        let places = Places::new(8, 4);
        let many: Vec<_> = (0..4).map(|_| places.take("many").unwrap()).collect();
        many[0].prove();
        let fifth = places.take("many").unwrap();
        assert!(!is_gone(&many[0]) && is_gone(&many[1]) && !is_gone(&many[2]), "its own go first");
        let few: Vec<_> = (0..2).map(|_| places.take("few").unwrap()).collect();
        assert_eq!(["many", "few", "none"].map(|of| places.of(&of)), [4, 2, 0]);
        let others: Vec<_> = ["a", "b", "c"].map(|of| places.take(of).unwrap()).into();
        assert!(is_gone(&many[2]) && !is_gone(&many[3]), "the source with most of them gives");
        assert!(few.iter().chain(&others).chain([&fifth]).all(|place| !is_gone(place)));
        drop((many, few, others, fifth));
        let books = places.lock();
        assert_eq!((books.taken, books.sources.len()), (0, 0));
    }

    #[test]
    fn who_has_proven_itself_goes_only_for_a_fair_share() {
        let places = Places::new(4, 4);
        let held: Vec<_> = (0..4).map(|_| places.take("a").unwrap()).collect();
        held.iter().for_each(Place::prove);
        assert!(places.take("a").is_none());
        let first = places.take("b").unwrap();
        first.prove();
        assert!(is_gone(&held[0]) && !is_gone(&held[1]));
        let second = places.take("b").unwrap();
        second.prove();
        assert!(is_gone(&held[1]));
        assert!(places.take("b").is_none(), "both have as many");
        assert!(!is_gone(&held[2]) && !is_gone(&first));
    }

    #[test]
    fn the_newest_of_a_source_may_close_its_oldest_and_nobody_elses() {
        let places = Places::new(4, 2);
        let taken = |of| {
            let place = places.take_from_oldest(of)?;
            place.prove();
            Some(place)
        };
        let [first, second, other] = ["a", "a", "b"].map(|of| taken(of).unwrap());
        let third = taken("a").unwrap();
        assert!(is_gone(&first) && !is_gone(&second) && !is_gone(&other) && !is_gone(&third));
        // Where there are as many as may be, each at its share, a source still has its own.
        let last = taken("c").unwrap();
        let next = taken("b").unwrap();
        assert!(is_gone(&other) && !is_gone(&next), "its own, of one");
        assert!(!is_gone(&second) && !is_gone(&third) && !is_gone(&last));
    }

    #[test]
    fn a_host_is_counted_once() {
        let of = |address: &str| source(address.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.2"), of("192.0.2.1"));
    }
}
