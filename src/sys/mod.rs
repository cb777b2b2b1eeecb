//! The kernel, with safe signatures: the only room where `unsafe` may stand.

pub mod netns;
pub mod process;
pub mod sandbox;
pub mod sockets;
