//! What is seen of the process from outside: the status endpoint.

use std::sync::Arc;

use super::Plan;
use crate::{
    lifecycle::Tasks,
    observe::Telemetry,
    standalone::{
        Address, Listening, MaterialConfig,
        status::{self, Phase, Status},
    },
};

/// All who look from outside; told of each change in this order.
pub(super) struct Seen {
    pub(super) status: Arc<Status>,
    /// The status endpoint, if there is one.
    _endpoint: Option<Listening>,
}

impl Seen {
    /// Shown from the beginning: that certificates are waited for is worth knowing.
    pub(super) fn open(plan: &Plan, telemetry: &Telemetry, tasks: &Tasks) -> Result<Self, String> {
        let config = plan.globals.status.clone();
        let address = config.address.clone();
        let first = plan.services.first();
        let planned = first.map(|s| (s.listen.to_string(), joined(&s.targets))).unwrap_or_default();
        let status = Status::new(config, telemetry.clone(), planned);
        let mut endpoint = None;
        if let Some(address) = address {
            let https = address.https(first.is_some_and(|s| shows_certificate(&s.material)));
            let listening =
                Listening::open(&address.address).map_err(|e| format!("--status: {e}"))?;
            status::serve(&status, &listening, https, tasks)
                .map_err(|e| format!("--status {address}: {e}"))?;
            endpoint = Some(listening);
        }
        status::push(&status, tasks)?;
        Ok(Self { status, _endpoint: endpoint })
    }

    /// All services accept.
    pub(super) fn listening(&self) {
        self.status.set_phase(Phase::Listening);
    }

    /// Files are read again; [`Seen::listening`] must follow.
    pub(super) fn reloading(&self) {
        self.status.set_phase(Phase::Reloading);
    }

    /// Nothing is accepted any more.
    pub(super) fn stopping(&self) {
        self.status.set_phase(Phase::Stopping);
    }
}

fn shows_certificate(material: &MaterialConfig) -> bool {
    match material {
        MaterialConfig::Files { credential, .. } => credential.is_some(),
        MaterialConfig::WorkloadApi { shown, .. } => *shown,
    }
}

/// A list for people.
pub(super) fn joined(addresses: &[Address]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
