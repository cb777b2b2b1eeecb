//! Open connections are held to what is trusted now, not to what was at their handshake.

pub mod peers;
pub mod verdict;
