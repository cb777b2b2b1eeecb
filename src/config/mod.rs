//! Files as written → values as used. All faults of a file are reported at once, each with
//! its line, its key and a suggestion; a file with a fault changes nothing.

mod ca;
mod fault;
mod mesh_file;
mod policies;
mod reader;
mod settings;

pub use ca::CaConfig;
pub use fault::{Fault, Faults, LoadError};
pub use mesh_file::{Capture, Checked, load, parse};
pub use settings::Settings;
