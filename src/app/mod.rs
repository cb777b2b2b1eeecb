//! The composition root: the only room that knows every other.

mod access_files;
pub mod ambient;
mod announce;
mod begun;
#[cfg(feature = "bench")]
pub mod bench;
mod ca_serve;
#[cfg(feature = "demo")]
mod demo;
mod frame;
mod memory_trimmer;
mod needs;
mod opened;
mod process;
mod rights;
mod run;
mod service_registry;
mod source;
pub mod standalone;
mod workers;
mod workload_api;

pub use ca_serve::ca_serve;
#[cfg(feature = "demo")]
pub use demo::{DEMO_CHECKS, DemoEvent, demo};
pub use opened::{opened_mesh, opened_services};
pub use run::{RunError, run};
