//! An Address as the mesh has it: a workload or a service. What cannot be read as a whole is
//! refused by itself, so a workload is never reached in another way than its control plane said.

mod parts;
mod service;
mod workload;

use std::sync::Arc;

use prost::Message as _;

pub use self::parts::service_key;
use self::{service::service, workload::workload};
use super::{message::Upserted, nack::RejectedResource};
use crate::{
    lifecycle::blocking,
    mesh::{Service, Workload},
    rpc::address::{Address, address::Type},
};

/// From how many resources on they are decoded where that keeps nobody waiting: some 2 ms.
const MANY: usize = 128;

/// What a resource of type Address is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MeshAddress {
    /// A workload, whose uid is the name of the resource.
    Workload(Workload),
    /// A service, whose `namespace/hostname` is the name of the resource.
    Service(Service),
}

/// Decodes one resource.
///
/// # Errors
/// What is wrong with it.
pub fn decode(resource: &Upserted) -> Result<MeshAddress, RejectedResource> {
    let fault = |why: String| RejectedResource::new(Arc::clone(&resource.name), &why);
    let address = Address::decode(resource.value.clone());
    let address = address.map_err(|e| fault(format!("is not an Address: {e}")))?;
    match address.r#type {
        Some(Type::Workload(sent)) => {
            workload(&resource.name, sent).map(MeshAddress::Workload).map_err(fault)
        }
        Some(Type::Service(sent)) => {
            service(&resource.name, sent).map(MeshAddress::Service).map_err(fault)
        }
        None => Err(fault("is neither a workload nor a service".into())),
    }
}

/// Decodes all, in order; many of them on another thread.
///
/// # Cancel safety
/// Dropping the future forgets what was decoded.
pub async fn decode_all(resources: Vec<Upserted>) -> Vec<Result<MeshAddress, RejectedResource>> {
    if resources.len() < MANY {
        return resources.iter().map(decode).collect();
    }
    let names: Vec<_> = resources.iter().map(|resource| Arc::clone(&resource.name)).collect();
    let decoded = blocking(move || resources.iter().map(decode).collect()).await;
    decoded.unwrap_or_else(|error| {
        // What is in force stays, and the process goes on: these bytes are a peer's.
        let why = format!("cannot be decoded: {error}");
        names.into_iter().map(|name| Err(RejectedResource::new(name, &why))).collect()
    })
}

#[cfg(test)]
mod tests;
