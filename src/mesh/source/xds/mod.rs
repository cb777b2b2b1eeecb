//! The mesh as istiod sends it.

pub mod authorization;
