//! What every proxy does with a connection, whoever runs it: the node proxy ([`crate::node`]) and
//! the one in front of a single service ([`crate::standalone`]) add only their own decisions.

pub mod egress;
pub mod ingress;
pub mod outcome;
