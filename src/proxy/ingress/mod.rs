//! Tunnels that arrive: proven, authorised, and only then dialled.

pub mod hbone;

pub use hbone::{Destination, Ends, IngressTunnel, Refusal};
