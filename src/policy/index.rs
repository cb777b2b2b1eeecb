//! Which of many rules can match a flow at all: those that name its caller or its port, and those
//! that name neither. So a workload with ten thousand policies asks a few of them.

use std::collections::HashMap;

use super::{Action, Match, Rule, StringMatch};
use crate::net::Flow;

/// Rules by their position among all of them.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_principal: HashMap<Box<str>, Vec<usize>>,
    by_port: HashMap<u16, Vec<usize>>,
    others: Vec<usize>,
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
            for principal in principals {
                self.by_principal.entry(principal.into()).or_default().push(position);
            }
            return;
        }
        let ports = narrowing.find_map(|seen| {
            let ports = seen.map(|m| Some(&*m.destination_ports.any).filter(|p| !p.is_empty()));
            Some(ports.collect::<Option<Vec<_>>>()?.concat())
        });
        let Some(mut ports) = ports else { return self.others.push(position) };
        ports.sort_unstable();
        ports.dedup();
        for port in ports {
            self.by_port.entry(port).or_default().push(position);
        }
    }

    /// The lowest position for which `matches` says yes, asked of those that can match only.
    pub(super) fn first(&self, flow: &Flow, matches: impl Fn(usize) -> bool) -> Option<usize> {
        let caller = flow.peer_id.as_ref();
        let of_caller = caller.and_then(|id| self.by_principal.get(id.principal()));
        let of_port = self.by_port.get(&flow.dst.port());
        let lists = [of_caller, of_port, Some(&self.others)].into_iter().flatten();
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
