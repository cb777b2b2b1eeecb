//! Who may call whom: Istio `AuthorizationPolicy`, L4 fields, compiled when loaded.
//!
//! [`Policy`] is one document, [`Rules`] what applies to one workload, [`admission::decide`] asks
//! them about one connection and answers with a trace that names the deciding rule.
//! Not here: reading YAML ([`crate::config`]).

mod access;
pub(crate) mod access_control;
pub mod admission;
mod dump;
mod engine;
mod evaluate;
mod index;
mod matcher;
mod rego;
mod rule;
mod rule_name;
mod unmatched;

pub use access::{Access, UriPattern};
pub use access_control::{AccessControl, BanList, Banned, Policies};
pub use dump::{MatchDump, PolicyDump};
pub use engine::Rules;
pub use evaluate::HttpPart;
pub use matcher::{FieldMatch, ServiceAccountMatch, StringMatch, canonical_block};
pub use rego::{Rego, RegoConfig};
pub use rule::{Action, Clause, Match, Policy, Rule, Scope};
pub use rule_name::{Place, RuleName};
