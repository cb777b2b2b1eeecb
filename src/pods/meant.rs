//! Which network namespace was probably meant by a name under which there is none.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::source::{PodFacts, PodNetns};
use crate::mesh::NetnsRef;

/// So many names of namespaces are looked at.
const MOST: usize = 4096;

/// A namespace that is there, whose name is like the one that this pod's is to have, and that no
/// other of these pods has.
pub(super) fn meant(facts: &PodFacts, pods: &BTreeMap<Arc<str>, Arc<PodFacts>>) -> Option<String> {
    let name = name_of(facts)?;
    let folder = NetnsRef::Name(String::new()).path();
    let there = std::fs::read_dir(folder).ok()?.flatten().take(MOST);
    let there: Vec<_> = there.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let taken: HashSet<&str> = pods.values().filter_map(|pod| name_of(pod)).collect();
    nearest(name, there.iter().map(String::as_str).filter(|name| !taken.contains(name)))
}

fn name_of(facts: &PodFacts) -> Option<&str> {
    match &facts.netns {
        PodNetns::Named(NetnsRef::Name(name)) => Some(name),
        _ => None,
    }
}

/// The nearest of them, if it is as near as a slip of the keyboard.
fn nearest<'a>(name: &str, there: impl Iterator<Item = &'a str>) -> Option<String> {
    let within = 1 + name.chars().count() / 3;
    let far = |other: &&str| other.len().abs_diff(name.len()) > name.len() / 2 + 1;
    let near = there.filter(|other| !far(other));
    let (distance, near) =
        near.map(|other| (strsim::damerau_levenshtein(name, other), other)).min()?;
    (distance <= within).then(|| near.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_that_a_slip_made_another() {
        let near = |name| nearest(name, ["shop-db", "shop-web", "ops"].into_iter());
        assert_eq!(near("shop-bd").as_deref(), Some("shop-db"));
        assert_eq!(near("shopweb").as_deref(), Some("shop-web"));
        assert_eq!(near("payments"), None);
        assert_eq!(near(&"x".repeat(10_000)), None);
    }
}
