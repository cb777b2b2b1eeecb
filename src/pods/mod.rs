//! The pods of this node: which are served, how their traffic is captured, and what keeps it so.
//!
//! A [`source`] says which pods there are, in events; the [`controller`] answers them and has the
//! [`manager`] attach and detach pods. [`capture`] puts the rules into their namespaces, and
//! `rule_watch` undoes what anybody else does to them. Nothing here waits on one pod.

mod announced;
pub mod capture;
pub(crate) mod controller;
pub(crate) mod manager;
pub(crate) mod probed;
mod rule_watch;
pub(crate) mod source;
mod turns;

use std::time::Duration;

/// How often pods that could not be attached are tried again.
pub(crate) const TRY_AGAIN_EVERY: Duration = Duration::from_millis(4800);
