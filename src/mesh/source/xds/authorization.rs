//! An `Authorization` of istiod as a [`Policy`] (istio-ambient facts §7.2, §10).
//!
//! What cannot be read is refused with the place where it stands, for leaving it out could make a
//! match wider. A match with an extension asks for more than is known here: in a `DENY` it is taken
//! without, which denies more; in an `ALLOW` it never matches. What a policy says of a flow, and
//! how conditions on HTTP are treated: [`crate::policy`].

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use crate::{
    policy::{
        Action, Clause, FieldMatch, Match, Policy, Rule, Scope, ServiceAccountMatch, StringMatch,
        canonical_block,
    },
    rpc::authorization::{self as proto, string_match::MatchType},
};

/// Why an `Authorization` is not taken, for the control plane and for whoever reads its logs.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidAuthorization {
    /// Nobody could name it.
    #[error("{0} is empty or has a slash")]
    Name(&'static str),
    /// Of a later control plane.
    #[error("scope {0} is not known")]
    Scope(i32),
    /// Of a later control plane.
    #[error("action {0} is not known")]
    Action(i32),
    /// A value that asks nothing that is known.
    #[error("{place}: {fault}")]
    Value {
        /// In which list.
        place: FieldPath,
        /// What is wrong with it.
        fault: ValueFault,
    },
}

/// A list of a match; all numbers from 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FieldPath {
    rule: usize,
    clause: usize,
    of_match: usize,
    field: &'static str,
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, clause, of_match, field } = self;
        write!(f, "rules[{rule}].clauses[{clause}].matches[{of_match}].{field}")
    }
}

/// What is wrong with one value.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ValueFault {
    /// Perhaps of a kind that came later.
    #[error("a string match has none of exact, prefix, suffix and presence")]
    Text,
    /// Neither IPv4 nor IPv6.
    #[error("an address has {0} bytes; expected 4 or 16")]
    Address(usize),
    /// Longer than the address.
    #[error("a prefix of {length} bits is too long for {ip}")]
    Prefix {
        /// Of the block.
        ip: IpAddr,
        /// As sent.
        length: u32,
    },
    /// More than 65535.
    #[error("port {0} does not exist")]
    Port(u32),
}

/// Reads one policy; its scope is `Named` where workloads say themselves that it is about them.
///
/// # Errors
/// What in it cannot be taken, and where it stands.
pub fn decode(message: proto::Authorization) -> Result<Policy, InvalidAuthorization> {
    for (what, name) in [("name", &message.name), ("namespace", &message.namespace)] {
        if name.is_empty() || name.contains('/') {
            return Err(InvalidAuthorization::Name(what));
        }
    }
    let scope = match proto::Scope::try_from(message.scope) {
        Ok(proto::Scope::Global) => Scope::Global,
        Ok(proto::Scope::Namespace) => Scope::Namespace,
        Ok(proto::Scope::WorkloadSelector) => Scope::Named,
        Err(_) => return Err(InvalidAuthorization::Scope(message.scope)),
    };
    let action = match proto::Action::try_from(message.action) {
        Ok(proto::Action::Allow) => Action::Allow,
        Ok(proto::Action::Deny) => Action::Deny,
        Err(_) => return Err(InvalidAuthorization::Action(message.action)),
    };
    let rules = message.rules.into_iter().enumerate().map(|(at, rule)| {
        let clauses = rule.clauses.into_iter().enumerate();
        let clauses = clauses.map(|(clause, said)| read_clause(action, (at, clause), said));
        Ok(Rule { clauses: clauses.collect::<Result<_, _>>()?, place: None })
    });
    Ok(Policy {
        name: message.name,
        namespace: message.namespace,
        scope,
        action,
        dry_run: message.dry_run,
        rules: rules.collect::<Result<_, InvalidAuthorization>>()?,
    })
}

fn read_clause(
    action: Action,
    (rule, clause): (usize, usize),
    said: proto::Clause,
) -> Result<Clause, InvalidAuthorization> {
    let matches = said.matches.into_iter().enumerate().map(|(of_match, said)| {
        let unknown = !said.extensions.is_empty();
        let read = read_match(said).map_err(|(field, fault)| {
            let place = FieldPath { rule, clause, of_match, field };
            InvalidAuthorization::Value { place, fault }
        })?;
        Ok(if unknown && action == Action::Allow { Match::default() } else { read })
    });
    Ok(Clause { matches: matches.collect::<Result<_, _>>()? })
}

fn read_match(said: proto::Match) -> Result<Match, (&'static str, ValueFault)> {
    Ok(Match {
        namespaces: FieldMatch {
            any: each("namespaces", said.namespaces, text)?,
            none: each("notNamespaces", said.not_namespaces, text)?,
        },
        service_accounts: FieldMatch {
            any: each("serviceAccounts", said.service_accounts, account)?,
            none: each("notServiceAccounts", said.not_service_accounts, account)?,
        },
        principals: FieldMatch {
            any: each("principals", said.principals, text)?,
            none: each("notPrincipals", said.not_principals, text)?,
        },
        source_ips: FieldMatch {
            any: each("sourceIps", said.source_ips, block)?,
            none: each("notSourceIps", said.not_source_ips, block)?,
        },
        destination_ips: FieldMatch {
            any: each("destinationIps", said.destination_ips, block)?,
            none: each("notDestinationIps", said.not_destination_ips, block)?,
        },
        destination_ports: FieldMatch {
            any: each("destinationPorts", said.destination_ports, port)?,
            none: each("notDestinationPorts", said.not_destination_ports, port)?,
        },
    })
}

fn each<T, R>(
    field: &'static str,
    said: Vec<T>,
    read: fn(T) -> Result<R, ValueFault>,
) -> Result<Vec<R>, (&'static str, ValueFault)> {
    said.into_iter().map(|one| read(one).map_err(|fault| (field, fault))).collect()
}

fn text(said: proto::StringMatch) -> Result<StringMatch, ValueFault> {
    Ok(match said.match_type.ok_or(ValueFault::Text)? {
        MatchType::Exact(text) => StringMatch::Exact(text),
        MatchType::Prefix(text) => StringMatch::Prefix(text),
        MatchType::Suffix(text) => StringMatch::Suffix(text),
        MatchType::Presence(()) => StringMatch::Presence,
    })
}

/// A `*` is no wildcard here: no account has that name.
fn account(said: proto::ServiceAccountMatch) -> Result<ServiceAccountMatch, ValueFault> {
    Ok(ServiceAccountMatch { namespace: said.namespace, account: said.service_account })
}

fn block(said: proto::Address) -> Result<IpNet, ValueFault> {
    let bytes = &said.address[..];
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let ip = four
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| ValueFault::Address(bytes.len()))?;
    let length = u8::try_from(said.length).ok();
    let block = length.and_then(|length| IpNet::new(ip, length).ok());
    block.map(canonical_block).ok_or(ValueFault::Prefix { ip, length: said.length })
}

fn port(said: u32) -> Result<u16, ValueFault> {
    u16::try_from(said).map_err(|_| ValueFault::Port(said))
}

#[cfg(test)]
mod tests;
