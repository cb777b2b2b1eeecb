//! Endpoints that are left out.

use std::time::Instant;

use serde::Serialize;

use crate::proxy::egress::Ejections;

/// An endpoint that connections of a pod are not given at present.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EjectedEndpoint {
    /// Whose connections.
    pod: String,
    /// Its address.
    endpoint: String,
    /// How many connections to it have failed in a row.
    failures: u32,
    /// For how much longer.
    left_out_for_seconds: u64,
}

/// All of a node.
pub(crate) fn ejected(ejections: &Ejections) -> Vec<EjectedEndpoint> {
    let all = ejections.now(Instant::now()).into_iter();
    let shown = all.map(|(pod, ejected)| EjectedEndpoint {
        pod: pod.to_string(),
        endpoint: ejected.address.to_string(),
        failures: ejected.failures,
        left_out_for_seconds: ejected.left.as_secs(),
    });
    shown.collect()
}
