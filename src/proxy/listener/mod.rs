//! Accepted connections, given to the worker that serves them.

mod accept_balancer;

pub use accept_balancer::{AcceptBalancer, Arrival, ConnectionGuard, Taken};
