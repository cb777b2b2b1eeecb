//! The files of a service's policies and bans while it runs.

use std::sync::Arc;

use crate::{
    config::{load_bans, load_policies},
    identity::shown_all,
    lifecycle::WatchedFile,
    observe::Refusal,
    policy::{BanList, Policies, Rego, Rules},
    roles::standalone::Service,
};

/// The files of a service's policies and bans, read again when they change.
pub(super) struct AccessFiles {
    pub(super) service: Arc<Service>,
    pub(super) files: WatchedFile,
}

impl AccessFiles {
    /// Takes files that have changed.
    pub(super) async fn look(&mut self) {
        if !self.files.has_settled() {
            return;
        }
        let files = shown_all(&self.files.changed());
        // Written while it was read: a later look takes it.
        let Some(read) = self.reread().await else { return };
        let name = self.service.config.name.as_str();
        let what = match self.service.access.bans() {
            Some(_) => "policies or bans",
            None => "policies",
        };
        match read {
            Ok(()) => tracing::info!(service = name, files, "changed {what} reloaded"),
            Err(error) => tracing::error!(
                service = name,
                error,
                "changed {what} rejected; keeping the previous ones"
            ),
        }
    }

    /// Reads them again; `None` if they were written meanwhile, and nothing was taken.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it has taken nothing.
    pub(super) async fn reread(&mut self) -> Option<Result<(), String>> {
        let of = Arc::clone(&self.service);
        let read = move || {
            let read_policies = |policies: &Policies| load_policies(policies.file());
            let read_bans = |bans: &BanList| load_bans(bans.file()).map_err(|e| e.to_string());
            let rego = of.access.rego().map(Rego::read);
            (of.access.policies().map(read_policies), rego, of.access.bans().map(read_bans))
        };
        let read = self.files.read_beside(read).await;
        let service = &self.service;
        let (policies, rego) = (service.access.policies(), service.access.rego());
        let bans = service.access.bans();
        let (new_policies, new_rego, new_bans) = match read {
            Ok(read) => read?,
            Err(late) => {
                let late = late.to_string();
                policies.iter().for_each(|policies| policies.refusal.refused(&late));
                rego.iter().for_each(|rego| rego.refusal.refused(&late));
                bans.iter().for_each(|bans| bans.refusal.refused(&late));
                return Some(Err(late));
            }
        };
        let bans = bans.zip(new_bans).map_or(Ok(()), |(bans, read)| {
            judged(&bans.refusal, read.map(|banned| bans.replace(banned)))
        });
        let rego = rego.zip(new_rego).map_or(Ok(()), |(rego, read)| {
            judged(&rego.refusal, read.map(|engine| rego.replace(engine)))
        });
        let policies = policies.zip(new_policies).map_or(Ok(()), |(policies, read)| {
            let read = read.map_err(|e| e.to_string());
            judged(&policies.refusal, read.map(|rules| take(service, rules)))
        });
        Some(policies.and(rego).and(bans))
    }
}

/// What was read is in use, or is not.
fn judged(refusal: &Refusal, read: Result<(), String>) -> Result<(), String> {
    match &read {
        Ok(()) => refusal.taken(),
        Err(error) => refusal.refused(error),
    }
    read
}

fn take(service: &Service, rules: Arc<Rules>) {
    let closed = service.replace_policies(rules);
    if closed > 0 {
        let service = service.config.name.as_str();
        tracing::info!(
            service,
            connections = closed,
            "connections closed: no longer allowed by the policies"
        );
    }
}
