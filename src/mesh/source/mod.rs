//! Where the mesh comes from.

pub mod file;
pub mod xds;
