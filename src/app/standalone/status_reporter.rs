//! What is seen of the process from outside: the status endpoint, and what a process that takes its
//! place gets.

use std::{io, sync::Arc};

use super::plan::{Plan, joined};
use crate::{
    app::frame::{HandedOver, Takeover},
    credentials::store::CredentialsConfig,
    lifecycle::{InheritedSockets, Tasks},
    net::{Listening, Sockets},
    observe::Telemetry,
    roles::standalone::{
        Service,
        status::{self, Phase, Status},
    },
};

/// Tells those outside of each change, in this order.
pub(super) struct StatusReporter {
    pub(super) status: Arc<Status>,
    /// The status endpoint, if there is one.
    endpoint: Option<(String, Listening)>,
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
            let https = address.https(first.is_some_and(|s| shows_certificate(&s.credentials)));
            let listening =
                sockets.open(&address.address, "--status").map_err(|e| format!("--status: {e}"))?;
            status::serve(&status, &listening, https, tasks)
                .map_err(|e| format!("--status {address}: {e}"))?;
            endpoint = Some((address.address.to_string(), listening));
        }
        status::push(&status, tasks)?;
        Ok(Self { status, endpoint })
    }

    /// All services accept.
    pub(super) fn listening(&self) {
        self.status.set_phase(Phase::Listening);
    }

    /// Files are read again; [`StatusReporter::listening`] must follow.
    pub(super) fn reloading(&self) {
        self.status.set_phase(Phase::Reloading);
    }

    /// Nothing is accepted any more. Another process has the sockets that were `handed_over`, and
    /// accepts if this one was `succeeded`.
    pub(super) fn stopping(&self, handed_over: &HandedOver, succeeded: bool) {
        self.status.set_phase(Phase::Stopping);
        let kept = self.endpoint.iter().filter(|(address, _)| handed_over.has(address));
        kept.for_each(|(_, listening)| listening.keep_path());
        if succeeded {
            self.status.retire();
        }
    }

    /// Takes the place of the process before this one, and waits for the one after it.
    pub(super) async fn take_over<'a>(
        &'a self,
        takeover: &mut Takeover,
        listeners: impl Iterator<Item = (String, &'a Listening)>,
    ) -> Result<(), String> {
        let listeners: Vec<_> = listeners.collect();
        let offered = self.offered(listeners.iter().map(|(address, l)| (address.clone(), *l)));
        takeover.serve(offered).map_err(|e| format!("{e:#}"))?;
        if takeover.waits() {
            // Not before: a start that fails leaves the path to the process that serves there.
            let status = self.endpoint.iter().map(|(_, listening)| listening);
            listeners.iter().map(|(_, l)| *l).chain(status).for_each(Listening::claim_path);
            let own = listeners.into_iter().map(|(address, _)| address);
            let status = self.endpoint.iter().map(|(address, _)| address.clone());
            takeover.tell(&own.chain(status).collect::<Vec<_>>()).await;
        }
        Ok(())
    }

    /// The sockets that a new process gets: these listeners, and that of the status endpoint. Empty
    /// if they cannot be copied.
    pub(super) fn offered<'a>(
        &'a self,
        listeners: impl Iterator<Item = (String, &'a Listening)>,
    ) -> InheritedSockets {
        let status = self.endpoint.iter().map(|(address, l)| (address.clone(), l));
        let all = listeners.chain(status).map(|(address, l)| copied(&address, l));
        match all.collect::<io::Result<Vec<_>>>() {
            Ok(all) => all.into_iter().flatten().collect(),
            Err(error) => {
                tracing::error!(%error, "cannot offer the listeners to a new process");
                Vec::new()
            }
        }
    }
}

/// The sockets that listen on an address, once more.
fn copied(address: &str, listening: &Listening) -> io::Result<InheritedSockets> {
    let copies = listening.duplicates()?.into_iter();
    Ok(copies.map(|copy| (address.to_owned(), copy)).collect())
}

/// What is wrong with a service that accepts no more.
pub(super) fn deaf(services: &[Arc<Service>]) -> Option<String> {
    let deaf = services.iter().find(|service| !service.accepts())?;
    Some(format!("{}: not every worker accepts connections", deaf.config.listen))
}

fn shows_certificate(credentials: &CredentialsConfig) -> bool {
    match credentials {
        CredentialsConfig::Files { credential, .. } => credential.is_some(),
        CredentialsConfig::WorkloadApi { shown, .. } => *shown,
    }
}
