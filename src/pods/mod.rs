//! The pods of this node: which are served, how their traffic is captured, and what keeps it so.
//!
//! A [`source`] says which pods there are, in events; the [`controller`] answers them and has the
//! [`manager`] attach and detach pods. [`capture`] puts the rules into their namespaces, and
//! `rule_watch` undoes what anybody else does to them; where istio-cni does, `redirect_watch` says
//! when they are gone. Nothing here waits on one pod.

mod announced;
pub mod capture;
pub mod controller;
pub mod manager;
mod meant;
pub(crate) mod probed;
mod redirect_watch;
mod rule_watch;
pub mod source;
mod turns;
mod watched;

use std::time::Duration;

/// How often pods that could not be attached are tried again.
pub(crate) const TRY_AGAIN_EVERY: Duration = Duration::from_millis(4800);
