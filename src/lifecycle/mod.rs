//! Tasks with owners, which can be drained and cut; and a clock that may be set.

mod aside;
mod clock;
mod tasks;

pub use aside::aside;
pub use clock::{Clocks, Step, clock_set, watch_clock};
pub use tasks::Tasks;
