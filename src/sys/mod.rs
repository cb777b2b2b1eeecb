//! The kernel, with safe signatures: the only module where `unsafe` may stand.
#![allow(unsafe_code, reason = "this is the module for it; each block says why it is sound")]

pub mod confine;
pub mod datagrams;
pub mod descriptors;
pub mod files;
pub mod ktls;
pub mod netlink;
pub mod netns;
pub mod packet;
pub mod peer;
pub mod pipe;
pub mod process;
pub mod reuseport;
pub mod sandbox;
pub mod seqpacket;
pub mod sockets;
#[cfg(feature = "sockmap")]
pub mod sockmap;
#[cfg(not(feature = "sockmap"))]
#[path = "sockmap/absent.rs"]
pub mod sockmap;
pub mod xtables;
