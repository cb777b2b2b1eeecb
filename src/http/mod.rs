//! One HTTP/1.1 server for all that adit shows over HTTP: admin, metrics, readiness, the status of
//! a standalone proxy, bundles and `OpenID` documents for others.
//!
//! [`Server::run`] bounds connections (in all and of one address), heads, bodies and times, and
//! refuses what a web page may have sent; a [`Handler`] answers. Not here: what is shown, and
//! gRPC ([`crate::rpc`]).

mod answer;
mod listener;
mod origin;
mod places;
mod request;
mod server;
#[cfg(test)]
mod tests;
mod write_deadline;

pub use answer::{Answer, answer, json, stream, text};
pub use listener::{Accept, Accepted};
pub use origin::Readers;
pub use request::{Methods, query};
pub use server::{Deadlines, Handler, Limits, Server};
