//! The composition root: the only room that knows every other.

pub mod bench;
mod carrier;
mod demo;
mod ebb;
mod run;
mod source;

pub use demo::demo;
pub use run::{RunError, run};
