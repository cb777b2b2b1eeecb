//! What both roles do in the same way: [`listener`] accepts connections and gives each to a worker,
//! [`ingress`] takes tunnels, [`egress`] opens streams, and [`revalidate`] closes who is no longer
//! trusted. What differs is a [`listener::Port`], an
//! [`ingress::Destination`], an [`egress::hbone::Source`] or a [`revalidate::Trusting`] of
//! [`crate::roles`]. Beside them, [`dns`] answers what pods' applications ask, and
//! [`original_port`] says at which ports tunnels arrive.

pub mod dns;
pub mod egress;
pub mod ingress;
pub mod listener;
pub mod original_port;
pub mod revalidate;
