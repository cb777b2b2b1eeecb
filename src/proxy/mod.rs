//! HBONE as both roles use it: [`ingress`] takes tunnels, [`egress`] opens streams. What differs is
//! a [`ingress::Destination`] or an [`egress::hbone::Source`] of [`crate::roles`].

pub mod egress;
pub mod ingress;
