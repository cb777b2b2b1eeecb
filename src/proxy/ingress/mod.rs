//! Tunnels that arrive: proven, authorised, and only then dialled. And [`socks5`], by which
//! applications ask for connections.

pub mod hbone;
pub mod socks5;

pub use hbone::{Destination, Ends, IngressTunnel, Refusal};
