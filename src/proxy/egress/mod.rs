//! How connections go out.

pub mod hbone;
