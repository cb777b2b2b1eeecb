//! The pods that istio-cni announces over its socket (istio-ambient facts §8).
//!
//! [`session`] is the protocol of one connection, without any I/O; [`driver`] connects, reads and
//! answers, again and again. That a connection is lost says nothing about pods: those that run go
//! on, and the snapshot of the next one says which have left.

mod driver;
mod session;

pub use driver::{ZdsSource, ZdsState};
