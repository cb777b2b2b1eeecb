//! A hash map whose clones share what they have in common: a change copies the path to one leaf.
//!
//! A trie over the bits of a hash, whose leaves hold up to 64 entries in one piece, in the order
//! of their hashes: as hashes are spread evenly, a look-up guesses where in a leaf its entry is.
//! An entry costs a few bytes beside itself; those of `imbl::HashMap` take 75 to 160 bytes where
//! the address and the pointer are 32.

use std::{
    hash::{BuildHasher, Hash},
    slice,
    sync::Arc,
};

use foldhash::fast::RandomState;

/// Bits of the hash that choose among the children of a branch.
const BITS: u32 = 4;
const CHILDREN: usize = 1 << BITS;
/// A leaf that outgrows this becomes a branch, while there are bits left.
const LEAF: usize = 64;

/// What holds its own key.
pub(super) trait Keyed: Clone {
    type Key: ?Sized + Hash + Eq;

    fn key(&self) -> &Self::Key;
}

#[derive(Clone)]
pub(super) struct Map<E> {
    root: Node<E>,
    len: usize,
    hasher: RandomState,
}

#[derive(Clone)]
enum Node<E> {
    Empty,
    Leaf(Arc<[Slot<E>]>),
    Branch(Arc<[Node<E>; CHILDREN]>),
}

#[derive(Clone)]
struct Slot<E> {
    hash: u32,
    entry: E,
}

impl<E> Default for Map<E> {
    fn default() -> Self {
        Self { root: Node::Empty, len: 0, hasher: RandomState::default() }
    }
}

impl<E: Keyed> Map<E> {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get(&self, key: &E::Key) -> Option<&E> {
        let hash = self.hash(key);
        let (mut node, mut shift) = (&self.root, 0);
        loop {
            match node {
                Node::Empty => return None,
                Node::Leaf(slots) => {
                    return place(slots, hash, shift, key).ok().map(|at| &slots[at].entry);
                }
                Node::Branch(children) => {
                    node = &children[child(hash, shift)];
                    shift += BITS;
                }
            }
        }
    }

    /// The entry that had this key before.
    pub(super) fn insert(&mut self, entry: E) -> Option<E> {
        let hash = self.hash(entry.key());
        let before = self.root.insert(Slot { hash, entry }, 0);
        self.len += usize::from(before.is_none());
        before
    }

    pub(super) fn remove(&mut self, key: &E::Key) -> Option<E> {
        self.get(key)?;
        let removed = self.root.remove(self.hash(key), 0, key)?;
        self.len -= 1;
        Some(removed)
    }

    pub(super) fn iter(&self) -> Iter<'_, E> {
        Iter { nodes: vec![slice::from_ref(&self.root).iter()], slots: [].iter() }
    }

    #[allow(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    fn hash(&self, key: &E::Key) -> u32 {
        self.hasher.hash_one(key) as u32
    }
}

/// By the highest bits that nothing above has asked for.
fn child(hash: u32, shift: u32) -> usize {
    (hash >> (u32::BITS - BITS - shift)) as usize % CHILDREN
}

/// Where an entry is among the slots of a leaf, or else belongs.
#[allow(clippy::cast_possible_truncation, reason = "less than the number of slots")]
fn place<E: Keyed>(slots: &[Slot<E>], hash: u32, shift: u32, key: &E::Key) -> Result<usize, usize> {
    let rest = u64::from(hash.checked_shl(shift).unwrap_or(0));
    let mut at = ((rest * slots.len() as u64) >> u32::BITS) as usize;
    while at > 0 && slots[at - 1].hash >= hash {
        at -= 1;
    }
    while at < slots.len() && slots[at].hash < hash {
        at += 1;
    }
    let same = slots[at..].iter().take_while(|s| s.hash == hash);
    match same.into_iter().position(|s| s.entry.key() == key) {
        Some(beyond) => Ok(at + beyond),
        None => Err(at),
    }
}

impl<E: Keyed> Node<E> {
    fn branch() -> Self {
        Self::Branch(Arc::new([const { Self::Empty }; CHILDREN]))
    }

    fn insert(&mut self, slot: Slot<E>, shift: u32) -> Option<E> {
        match self {
            Self::Empty => *self = Self::Leaf(Arc::new([slot])),
            Self::Leaf(slots) => {
                let at = match place(slots, slot.hash, shift, slot.entry.key()) {
                    Ok(at) => {
                        let there = &mut Arc::make_mut(slots)[at].entry;
                        return Some(std::mem::replace(there, slot.entry));
                    }
                    Err(at) => at,
                };
                let (less, more) = slots.split_at(at);
                let all = less.iter().cloned().chain([slot]).chain(more.iter().cloned());
                if slots.len() < LEAF || shift + BITS > u32::BITS {
                    *slots = all.collect();
                } else {
                    let mut branch = Self::branch();
                    all.for_each(|slot| drop(branch.insert(slot, shift)));
                    *self = branch;
                }
            }
            Self::Branch(children) => {
                let at = child(slot.hash, shift);
                return Arc::make_mut(children)[at].insert(slot, shift + BITS);
            }
        }
        None
    }

    fn remove(&mut self, hash: u32, shift: u32, key: &E::Key) -> Option<E> {
        match self {
            Self::Empty => None,
            Self::Leaf(slots) => {
                let at = place(slots, hash, shift, key).ok()?;
                let removed = slots[at].entry.clone();
                if slots.len() == 1 {
                    *self = Self::Empty;
                } else {
                    *slots = slots[..at].iter().chain(&slots[at + 1..]).cloned().collect();
                }
                Some(removed)
            }
            Self::Branch(children) => {
                let children = Arc::make_mut(children);
                let removed = children[child(hash, shift)].remove(hash, shift + BITS, key)?;
                if let Some(merged) = Self::merged(children) {
                    *self = merged;
                }
                Some(removed)
            }
        }
    }

    /// One leaf for children that have grown small, so that what shrinks gives memory back.
    fn merged(children: &[Self; CHILDREN]) -> Option<Self> {
        let mut slots = 0;
        for child in children {
            match child {
                Self::Empty => {}
                Self::Leaf(leaf) => slots += leaf.len(),
                Self::Branch(_) => return None,
            }
        }
        let all = children.iter().flat_map(|child| match child {
            Self::Leaf(leaf) => &leaf[..],
            Self::Empty | Self::Branch(_) => &[],
        });
        match slots {
            0 => Some(Self::Empty),
            slots => (slots <= LEAF / 4).then(|| Self::Leaf(all.cloned().collect())),
        }
    }
}

pub(super) struct Iter<'a, E> {
    nodes: Vec<slice::Iter<'a, Node<E>>>,
    slots: slice::Iter<'a, Slot<E>>,
}

impl<'a, E> Iterator for Iter<'a, E> {
    type Item = &'a E;

    fn next(&mut self) -> Option<&'a E> {
        loop {
            if let Some(slot) = self.slots.next() {
                return Some(&slot.entry);
            }
            match self.nodes.last_mut()?.next() {
                None => drop(self.nodes.pop()),
                Some(Node::Empty) => {}
                Some(Node::Leaf(slots)) => self.slots = slots.iter(),
                Some(Node::Branch(children)) => self.nodes.push(children.iter()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl Keyed for (u32, u32) {
        type Key = u32;

        fn key(&self) -> &u32 {
            &self.0
        }
    }

    fn picture(map: &Map<(u32, u32)>) -> BTreeMap<u32, u32> {
        let all: BTreeMap<_, _> = map.iter().copied().collect();
        assert_eq!(map.len(), all.len());
        assert!(all.iter().all(|(key, value)| map.get(key) == Some(&(*key, *value))));
        all
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_its_clones_stay(
            steps in proptest::collection::vec((0_u32..300, any::<Option<u32>>()), 0..1500),
            kept in 0_usize..1500,
        ) {
            let (mut map, mut model) = (Map::default(), BTreeMap::new());
            let mut clone = None;
            for (n, (key, value)) in steps.into_iter().enumerate() {
                match value {
                    Some(value) => {
                        let before = map.insert((key, value)).map(|(_, value)| value);
                        prop_assert_eq!(before, model.insert(key, value));
                    }
                    None => {
                        let before = map.remove(&key).map(|(_, value)| value);
                        prop_assert_eq!(before, model.remove(&key));
                    }
                }
                if n == kept {
                    clone = Some((map.clone(), model.clone()));
                }
            }
            prop_assert_eq!(picture(&map), model);
            if let Some((map, model)) = clone {
                prop_assert_eq!(picture(&map), model);
            }
        }
    }

    #[test]
    fn keys_of_one_hash_are_kept_apart() {
        #[derive(Clone, Debug, Eq, PartialEq)]
        struct Same(u32);
        impl Hash for Same {
            fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
        }
        impl Keyed for Same {
            type Key = Self;
            fn key(&self) -> &Self {
                self
            }
        }
        let mut map = Map::default();
        (0..100).for_each(|n| assert!(map.insert(Same(n)).is_none()));
        assert_eq!(map.len(), 100);
        assert!((0..100).all(|n| map.get(&Same(n)) == Some(&Same(n))));
        assert!((0..100).all(|n| map.remove(&Same(n)) == Some(Same(n))));
        assert!(map.is_empty() && matches!(map.root, Node::Empty));
    }
}
