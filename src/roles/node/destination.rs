//! Which application of a pod a CONNECT request means.

use std::net::SocketAddr;

use http::StatusCode;

use super::OWN_PORTS;
use crate::{
    hbone::{connect::Authority, server::Incoming},
    mesh::{View, Workload},
    net::CloseReason,
    proxy::ingress::Refusal,
};

/// The application that is meant: on this very pod, and never a port of ours.
pub(super) fn destination(
    mesh: &View,
    workload: &Workload,
    incoming: &Incoming,
    local: SocketAddr,
) -> Result<SocketAddr, Refusal> {
    let refusal = |status, reason, why| Refusal { status, reason, why };
    let bad = |reason, why| refusal(StatusCode::BAD_REQUEST, reason, why);
    let unavailable = |reason, why| refusal(StatusCode::SERVICE_UNAVAILABLE, reason, why);
    if !incoming.is_connect() {
        return Err(bad(CloseReason::BadConnect, "the method is not CONNECT"));
    }
    let unparsable = bad(CloseReason::BadConnect, ":authority is not IP:port or hostname:port");
    let port = match incoming.authority().ok_or(unparsable)? {
        Authority::Addr(addr)
            if addr.ip().to_canonical() == local.ip()
                && workload.addresses.contains(&local.ip()) =>
        {
            addr.port()
        }
        Authority::Addr(_) => {
            let why = ":authority is not the address of the pod that was called";
            return Err(bad(CloseReason::AuthorityMismatch, why));
        }
        Authority::Host(host, port) => {
            service_port(mesh, workload, &host, port).ok_or(unavailable(
                CloseReason::AuthorityMismatch,
                ":authority names no service and port that this pod backs",
            ))?
        }
    };
    if OWN_PORTS.contains(&port) {
        let why = "the port in :authority is one of adit's own";
        return Err(unavailable(CloseReason::DirectCall, why));
    }
    Ok(SocketAddr::new(local.ip(), port))
}

pub(super) fn service_port(mesh: &View, workload: &Workload, host: &str, port: u16) -> Option<u16> {
    let mut named = mesh.services_named(host).iter();
    named.find(|s| s.is_backed_by(workload))?.target_port(port)
}
