//! Where connections come from and go to, who may be told apart by it, and why they end: plain
//! values, and the sockets that listen and dial at an [`Address`].
//!
//! [`Flow`] is what routes and policies are decided on; [`CloseReason`] is the closed set of ends
//! that log, metrics and tests share.

mod address;
mod bound_path;
mod cannot_listen;
mod close_reason;
pub(crate) mod endpoint;
mod flow;
mod pod;
mod sockets;

pub use address::{Address, InvalidAddress};
pub use cannot_listen::cannot_listen;
pub use close_reason::{CloseReason, Outcome, connect_failed, is_unreached};
pub use endpoint::{Accepting, Listening, UNIX_PEER, connect};
pub use flow::{Direction, Flow, OriginalDst, PeerAddr};
pub use pod::PodName;
pub use sockets::Sockets;
