//! What adit is for those who run it: the proxy's parts, put together in two ways.
//!
//! [`node`] serves the pods of a node: captured connections, HBONE, plaintext. [`standalone`]
//! serves what a file or flags name: mTLS in front of one service. Not here: files and flags
//! ([`crate::config`], [`crate::cli`]), processes ([`crate::app`]).

pub mod node;
pub mod standalone;
