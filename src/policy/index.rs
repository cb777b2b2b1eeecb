//! Which of many rules can match a flow at all: those that name its caller or its port, and those
//! that name neither. So a workload with ten thousand policies asks a few of them.

use std::{collections::HashMap, fmt, hash::BuildHasher as _, slice};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::{Action, Match, Rule, StringMatch};
use crate::net::Flow;

/// Rules by their position among all of them.
#[derive(Default)]
pub(super) struct Index {
    /// By the hash alone: a rule knows its principals, and says no to another with their hash.
    by_principal: HashTable<(u64, Positions)>,
    hasher: RandomState,
    by_port: HashMap<u16, Positions>,
    others: Vec<usize>,
}

/// What is in it follows from the rules, and its order from chance.
impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}

/// Of nearly every caller and port one.
enum Positions {
    One(usize),
    Several(Vec<usize>),
}

impl Positions {
    fn push(&mut self, position: usize) {
        match self {
            Self::One(first) => *self = Self::Several(vec![*first, position]),
            Self::Several(all) => all.push(position),
        }
    }

    fn as_slice(&self) -> &[usize] {
        match self {
            Self::One(one) => slice::from_ref(one),
            Self::Several(all) => all,
        }
    }
}

impl Index {
    /// Enters a rule; each has a higher position than those before.
    pub(super) fn add(&mut self, position: usize, action: Action, rule: &Rule) {
        // What HTTP alone shows may count as met in a `DENY`: such a clause narrows nothing.
        let narrowing = rule.clauses.iter().filter(|clause| {
            !clause.matches.is_empty()
                && (action == Action::Allow || !clause.matches.iter().any(Match::is_blank))
        });
        let mut narrowing = narrowing.map(|clause| clause.matches.iter().filter(|m| !m.is_blank()));
        let principals = narrowing.clone().find_map(|seen| {
            let exact = seen.map(principals);
            Some(exact.collect::<Option<Vec<_>>>()?.concat())
        });
        if let Some(mut principals) = principals {
            principals.sort_unstable();
            principals.dedup();
            return principals.into_iter().for_each(|name| self.add_principal(name, position));
        }
        let ports = narrowing.find_map(|seen| {
            let ports = seen.map(|m| Some(&*m.destination_ports.any).filter(|p| !p.is_empty()));
            Some(ports.collect::<Option<Vec<_>>>()?.concat())
        });
        let Some(mut ports) = ports else { return self.others.push(position) };
        ports.sort_unstable();
        ports.dedup();
        for port in ports {
            let there = self.by_port.entry(port);
            there.and_modify(|all| all.push(position)).or_insert(Positions::One(position));
        }
    }

    fn add_principal(&mut self, name: &str, position: usize) {
        let hash = self.hasher.hash_one(name);
        match self.by_principal.find_mut(hash, |(there, _)| *there == hash) {
            Some((_, all)) => all.push(position),
            None => {
                let new = (hash, Positions::One(position));
                self.by_principal.insert_unique(hash, new, |(hash, _)| *hash);
            }
        }
    }

    fn of_principal(&self, name: &str) -> Option<&Positions> {
        let hash = self.hasher.hash_one(name);
        self.by_principal.find(hash, |(there, _)| *there == hash).map(|(_, all)| all)
    }

    /// The lowest position for which `matches` says yes, asked of those that can match only.
    pub(super) fn first(&self, flow: &Flow, matches: impl Fn(usize) -> bool) -> Option<usize> {
        let of_caller = flow.principals().filter_map(|name| self.of_principal(name));
        let of_port = self.by_port.get(&flow.dst.port());
        let listed = of_caller.chain(of_port).map(Positions::as_slice);
        let lists = listed.chain([&*self.others]);
        let first = lists.filter_map(|list| list.iter().copied().find(|at| matches(*at)));
        first.min()
    }
}

/// The principals that a match names, if all of them are exact.
fn principals(m: &Match) -> Option<Vec<&str>> {
    let exact = m.principals.any.iter().map(|named| match named {
        StringMatch::Exact(text) => Some(text.as_str()),
        _ => None,
    });
    let named: Vec<&str> = exact.collect::<Option<_>>()?;
    (!named.is_empty()).then_some(named)
}
