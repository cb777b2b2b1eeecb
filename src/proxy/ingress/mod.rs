//! Tunnels that arrive: proven, authorised, and only then dialled.

mod destination;
pub mod hbone;

pub use destination::{Destination, Ends, Refusal, Tunnel};
