//! Which resources are in force, and what the control plane called their versions: what a new
//! stream tells of, and how a resource that is sent again is known to be the same.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::Arc,
};

/// What tells a resource from its next version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Version {
    /// istiod's: hexadecimal digits of a hash of the content.
    Hash(u64),
    /// Another text.
    Text(Box<Box<str>>),
    /// The sender gives none: a keyed hash of the content.
    Content(u64),
}

impl Version {
    fn of_text(text: &str) -> Self {
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(hash) if digits && !text.starts_with('0') => Self::Hash(hash),
            _ => Self::Text(Box::new(text.into())),
        }
    }

    /// As the control plane wrote it; empty where it wrote none.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Hash(hash) => format!("{hash:x}"),
            Self::Text(text) => text.to_string(),
            Self::Content(_) => String::new(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Hash(hash) => (64 - hash.leading_zeros() as usize).div_ceil(4),
            Self::Text(text) => text.len(),
            Self::Content(_) => 0,
        }
    }
}

/// Bytes that protobuf adds to an entry of a map of texts, at most.
pub(super) const ENTRY: usize = 10;

/// The resources of one type that are in force, by name.
#[derive(Debug, Default)]
pub(super) struct Held {
    all: HashMap<Arc<str>, Version>,
    /// Of all names and versions, in a request.
    bytes: usize,
    /// How many have a version of the control plane's.
    versioned: usize,
    key: RandomState,
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// How long the list of all of them is in a request.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a list of them tells anybody anything.
    pub(super) fn has_versions(&self) -> bool {
        self.versioned > 0
    }

    /// Names and versions, as a request has them.
    pub(super) fn versions(&self) -> HashMap<String, String> {
        self.all.iter().map(|(name, version)| (name.to_string(), version.text())).collect()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.all.keys()
    }

    /// The name as it is kept, if it is.
    pub(super) fn name(&self, name: &str) -> Option<&Arc<str>> {
        self.all.get_key_value(name).map(|(name, _)| name)
    }

    /// The version of what was sent.
    pub(super) fn version(&self, version: &str, content: &[u8]) -> Version {
        match version {
            "" => Version::Content(self.key.hash_one(content)),
            text => Version::of_text(text),
        }
    }

    /// Whether this very version is in force.
    pub(super) fn has(&self, name: &str, version: &Version) -> bool {
        self.all.get(name) == Some(version)
    }

    pub(super) fn insert(&mut self, name: Arc<str>, version: Version) {
        self.count(&name, &version);
        if let Some(before) = self.all.insert(Arc::clone(&name), version) {
            self.discount(&name, &before);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some((name, version)) = self.all.remove_entry(name) {
            self.discount(&name, &version);
        }
    }

    fn count(&mut self, name: &str, version: &Version) {
        self.bytes += name.len() + version.len() + ENTRY;
        self.versioned += usize::from(!matches!(version, Version::Content(_)));
    }

    fn discount(&mut self, name: &str, version: &Version) {
        self.bytes -= name.len() + version.len() + ENTRY;
        self.versioned -= usize::from(!matches!(version, Version::Content(_)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_given_back_as_they_came() {
        for text in
            ["2352f326e9a03244", "b5807e23167488", "8257b9f1235aa48", "00ab", "v1", "ABC", "+a"]
        {
            let version = Version::of_text(text);
            assert_eq!((version.text(), version.len()), (text.to_owned(), text.len()));
        }
        assert!(matches!(Version::of_text("2352f326e9a03244"), Version::Hash(_)));
        assert!(size_of::<Version>() <= 16, "one stands beside each of 100,000 names");
    }

    #[test]
    fn what_is_sent_again_is_no_news() {
        let mut held = Held::default();
        for (name, version) in [("a", "1"), ("b", "")] {
            let sent = held.version(version, b"one");
            assert!(!held.has(name, &sent));
            held.insert(name.into(), sent);
            assert!(held.has(name, &held.version(version, b"one")));
        }
        assert!(!held.has("a", &held.version("2", b"one")));
        assert!(!held.has("b", &held.version("", b"two")), "without versions the content decides");
    }

    #[test]
    fn the_length_of_the_list_follows_what_is_in_it() {
        let mut held = Held::default();
        let insert = |held: &mut Held, version: &str| {
            held.insert("a".into(), held.version(version, b""));
        };
        insert(&mut held, "");
        assert!(!held.has_versions());
        insert(&mut held, "12");
        assert_eq!((held.bytes(), held.has_versions()), (1 + 2 + ENTRY, true));
        held.remove("a");
        assert_eq!((held.bytes(), held.has_versions(), held.len()), (0, false, 0));
    }
}
