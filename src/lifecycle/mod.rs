//! Tasks with owners, which can be drained and cut, and what the service manager is told.

mod service_manager;
mod tasks;

pub use service_manager::ServiceManager;
pub use tasks::Tasks;
