//! Tasks with owners, the three phases of a shutdown, readiness.

mod tasks;

pub use tasks::Tasks;
