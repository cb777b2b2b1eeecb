//! A connection as operators see it: who, where to, how it ended.

mod close_reason;
mod flow;

pub use close_reason::CloseReason;
pub use flow::{Direction, Flow, OriginalDst, PeerAddr};
