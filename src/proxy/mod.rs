//! HBONE as both roles use it: [`ingress`] takes tunnels, [`egress`] opens streams; [`listener`]
//! accepts for both, and [`revalidate`] closes who is no longer trusted. What differs is a
//! [`ingress::Destination`] or an [`egress::hbone::Source`] of [`crate::roles`].

pub mod egress;
pub mod ingress;
pub mod listener;
pub mod revalidate;
