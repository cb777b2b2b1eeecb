//! How connections come in.

mod destination;
pub mod hbone;

pub use destination::{Destination, Ends, Refusal, Tunnel};
