//! What every proxy does with a connection, whoever runs it: the node proxy ([`crate::roles::node`]) and
//! the one in front of a single service ([`crate::roles::standalone`]) add only their own decisions.

pub mod egress;
pub mod ingress;
pub mod outcome;
