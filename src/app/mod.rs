//! The composition root: the only room that knows every other.

mod carrier;
mod run;

pub use run::{RunError, run};
