//! What is seen of the process from outside: the status endpoint and the service manager.

use std::{sync::Arc, time::Duration};

use super::{Plan, watchdog};
use crate::{
    app::workers::Workers,
    lifecycle::{ServiceManager, Tasks},
    observe::Telemetry,
    standalone::{
        Address, Listening, MaterialConfig, Sockets,
        status::{self, Phase, Status},
    },
};

/// All who look from outside; told of each change in this order.
pub(super) struct Seen {
    pub(super) status: Arc<Status>,
    pub(super) manager: Arc<ServiceManager>,
    /// The status endpoint, if there is one.
    _endpoint: Option<Listening>,
}

impl Seen {
    /// Shown from the beginning: that certificates are waited for is worth knowing.
    pub(super) fn open(
        plan: &Plan,
        telemetry: &Telemetry,
        sockets: &mut Sockets,
        tasks: &Tasks,
    ) -> Result<Self, String> {
        let config = plan.globals.status.clone();
        let address = config.address.clone();
        let first = plan.services.first();
        let planned = first.map(|s| (s.listen.to_string(), joined(&s.targets))).unwrap_or_default();
        let status = Status::new(config, telemetry.clone(), planned);
        let mut endpoint = None;
        if let Some(address) = address {
            let https = address.https(first.is_some_and(|s| shows_certificate(&s.material)));
            let listening = sockets.open(&address.address).map_err(|e| format!("--status: {e}"))?;
            status::serve(&status, &listening, https, tasks)
                .map_err(|e| format!("--status {address}: {e}"))?;
            endpoint = Some(listening);
        }
        status::push(&status, tasks)?;
        Ok(Self { status, manager: Arc::default(), _endpoint: endpoint })
    }

    /// All services accept.
    pub(super) fn listening(&self) {
        self.status.set_phase(Phase::Listening);
        self.manager.ready(&self.status.one_line());
    }

    /// Files are read again; [`Seen::listening`] must follow.
    pub(super) fn reloading(&self) {
        self.status.set_phase(Phase::Reloading);
        self.manager.reloading();
    }

    /// Nothing is accepted any more.
    pub(super) fn stopping(&self, grace: Duration) {
        self.status.set_phase(Phase::Stopping);
        self.manager.stopping(&self.status.one_line(), grace + Duration::from_secs(5));
    }

    pub(super) fn feed_watchdog(&self, workers: &Workers, tasks: &Tasks) {
        let Some(limit) = self.manager.watchdog() else { return };
        let (manager, status) = (Arc::clone(&self.manager), Arc::clone(&self.status));
        let workers = workers.handles.clone();
        tasks.spawn(async move { watchdog::feed(&manager, limit, &status, &workers).await });
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
