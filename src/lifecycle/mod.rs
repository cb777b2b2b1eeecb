//! Tasks with owners, which can be drained and cut.

mod tasks;

pub use tasks::Tasks;
