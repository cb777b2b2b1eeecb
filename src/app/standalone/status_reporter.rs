//! What is seen of the process from outside: the status endpoint, the service manager, and who
//! takes its place.

use std::{sync::Arc, time::Duration};

use super::Plan;
use crate::{
    app::{process::watchdog, workers::Workers},
    credentials::store::CredentialsConfig,
    lifecycle::{HandoffClient, HandoffServer, ServiceManager, Tasks},
    observe::Telemetry,
    standalone::{
        Address, Listening, Service, Sockets,
        status::{self, Phase, Status},
    },
};

/// Tells those outside of each change, in this order.
pub(super) struct StatusReporter {
    pub(super) status: Arc<Status>,
    pub(super) manager: Arc<ServiceManager>,
    /// The status endpoint, if there is one.
    endpoint: Option<(String, Listening)>,
    /// Where a successor finds us, once we accept.
    pub(super) handoff: Option<HandoffServer>,
    takeover: Option<std::path::PathBuf>,
}

impl StatusReporter {
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
            endpoint = Some((address.address.to_string(), listening));
        }
        status::push(&status, tasks)?;
        let takeover = plan.globals.takeover.clone();
        Ok(Self { status, manager: Arc::default(), endpoint, handoff: None, takeover })
    }

    /// All services accept.
    pub(super) fn listening(&self) {
        self.status.set_phase(Phase::Listening);
        self.manager.ready(&self.status.one_line());
    }

    /// Files are read again; [`StatusReporter::listening`] must follow.
    pub(super) fn reloading(&self) {
        self.status.set_phase(Phase::Reloading);
        self.manager.reloading();
    }

    /// Nothing is accepted any more; `successor` is who does now, if anybody.
    pub(super) fn stopping(&mut self, grace: Duration, successor: Option<Option<u32>>) {
        self.status.set_phase(Phase::Stopping);
        if let Some(handoff) = &self.handoff {
            handoff.offer(Vec::new());
        }
        match successor {
            None => self.manager.stopping(&self.status.one_line(), grace + Duration::from_secs(5)),
            Some(pid) => {
                // The path is the successor's now.
                self.endpoint.iter_mut().for_each(|(_, listening)| listening.keep_path());
                self.status.retire();
                pid.into_iter().for_each(|pid| self.manager.succeeded_by(pid));
            }
        }
    }

    pub(super) fn feed_watchdog(&self, workers: &Workers, tasks: &Tasks) {
        let (manager, status) = (Arc::clone(&self.manager), Arc::clone(&self.status));
        let workers = workers.handles.clone();
        tasks.spawn(async move {
            watchdog::feed(&manager, &workers, || deaf(&status.services())).await;
        });
    }

    /// Takes the place of the process before this one, and waits for the one after it.
    pub(super) fn succeed<'a>(
        &mut self,
        predecessor: Option<HandoffClient>,
        listeners: impl Iterator<Item = (String, &'a Listening)>,
    ) -> Result<(), String> {
        if let Some(path) = &self.takeover {
            let failed = |e| format!("--takeover {}: {e}", crate::identity::shown(path));
            self.handoff = Some(HandoffServer::open(path).map_err(failed)?);
            self.offer(listeners);
        }
        if let Some(predecessor) = predecessor {
            tracing::info!("in the place of the process before this one, which drains");
            predecessor.take_over();
        }
        Ok(())
    }

    /// Lets a successor have these listeners, and that of the status endpoint.
    pub(super) fn offer<'a>(&self, listeners: impl Iterator<Item = (String, &'a Listening)>) {
        let Some(handoff) = &self.handoff else { return };
        let copied = |address: String, listening: &Listening| {
            let copies = listening.duplicates()?.into_iter();
            Ok(copies.map(|copy| (address.clone(), copy)).collect::<Vec<_>>())
        };
        let status = self.endpoint.iter().map(|(address, l)| copied(address.clone(), l));
        let all = listeners.map(|(address, listening)| copied(address, listening)).chain(status);
        match all.collect::<std::io::Result<Vec<_>>>() {
            Ok(all) => handoff.offer(all.into_iter().flatten().collect()),
            Err(error) => tracing::error!(%error, "a successor cannot be offered our listeners"),
        }
    }

    /// Waits until another process has taken over: its process ID, if that can be seen.
    pub(super) async fn until_succeeded(&self) -> Option<u32> {
        match &self.handoff {
            Some(handoff) => handoff.wait().await.pid,
            None => std::future::pending().await,
        }
    }
}

/// What is wrong with a service that accepts no more.
fn deaf(services: &[Arc<Service>]) -> Option<String> {
    let deaf = services.iter().find(|service| !service.accepts())?;
    Some(format!("{} does not accept on each worker", deaf.config.listen))
}

fn shows_certificate(material: &CredentialsConfig) -> bool {
    match material {
        CredentialsConfig::Files { credential, .. } => credential.is_some(),
        CredentialsConfig::WorkloadApi { shown, .. } => *shown,
    }
}

/// A list for people.
pub(super) fn joined(addresses: &[Address]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
