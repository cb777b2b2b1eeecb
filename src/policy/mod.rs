//! Who may call whom: Istio `AuthorizationPolicy`, L4 fields, compiled when loaded.
//!
//! [`Policy`] is one document, [`Rules`] what applies to one workload, [`admission::decide`] asks
//! them about one connection and answers with a trace that names the deciding rule.
//! Not here: reading YAML ([`crate::config`]).

pub mod admission;
mod dump;
mod engine;
mod matcher;
mod rule;

pub use dump::{PolicyDump, RuleDump, SourceDump};
pub use engine::Rules;
pub use matcher::{FieldMatch, ServiceAccountMatch, StringMatch, canonical_block};
pub use rule::{Action, Condition, Operation, Policy, Rule, Scope, Source};
