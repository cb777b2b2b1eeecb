//! The pods of this node: which are served, how their traffic is captured, and what keeps it so.
//!
//! [`manager`] makes the running pods those of the configuration; [`capture`] puts the rules into
//! their namespaces, and `rule_watch` undoes what anybody else does to them. Nothing here waits on
//! one pod.

pub mod capture;
pub(crate) mod manager;
pub(crate) mod probed;
mod rule_watch;
mod turns;
