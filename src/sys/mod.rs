//! The kernel, with safe signatures: the only room where `unsafe` may stand.

pub mod process;
