//! What a process of services is to do, from a file or from flags.

use std::path::Path;

use crate::{
    config::{self, Globals, LoadError},
    lifecycle::WatchedFile,
    net::Address,
    roles::standalone::{Role, ServiceConfig},
};

/// As many services as a start names.
const MOST_NAMED: usize = 8;

/// What the process does.
#[derive(Debug)]
pub struct Plan {
    /// For all services.
    pub globals: Globals,
    /// None is possible in a file only.
    pub services: Vec<ServiceConfig>,
    /// Whether the targets' names must resolve at start.
    pub resolve: bool,
    /// The file that describes them, if one does: it is watched.
    pub file: Option<WatchedFile>,
}

impl Plan {
    /// What flags say: one service.
    ///
    /// # Errors
    /// If its listener and the status endpoint could not both be.
    pub fn of_flags(
        globals: Globals,
        service: ServiceConfig,
        resolve: bool,
    ) -> Result<Self, String> {
        let status = globals.status.address.as_ref().map(|status| &status.address);
        if let Some(status) = status.filter(|status| status.collides(&service.listen)) {
            return Err(format!(
                "the status endpoint (--status {status}) and the listener (--listen {}) have the \
                 same address; choose another port for --status",
                service.listen
            ));
        }
        Ok(Self { globals, services: vec![service], resolve, file: None })
    }

    /// What a file says.
    ///
    /// # Errors
    /// All its faults.
    pub fn of_file(path: &Path) -> Result<Self, LoadError> {
        // Before it is read: an edit in between is then seen as one.
        let file = Some(WatchedFile::new(path));
        let read = config::load_standalone(path)?;
        Ok(Self { globals: read.globals, services: read.services, resolve: false, file })
    }

    /// What the process is to do, for people.
    pub(super) fn words(&self) -> String {
        let named = self.services.iter().take(MOST_NAMED).map(|service| {
            let (takes, hands) = match service.role {
                Role::Server => ("TLS", "plaintext"),
                Role::Client => ("plaintext", "TLS"),
            };
            let (name, listen, to) = (&service.name, &service.listen, joined(&service.targets));
            format!("{name}: {takes} on {listen}, {hands} to {to}")
        });
        let mut all: Vec<String> = named.collect();
        if let Some(more) = self.services.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
            all.push(format!("and {more} more"));
        }
        for file in self.file.iter().flat_map(WatchedFile::paths) {
            all.push(format!("as {} says", file.display()));
        }
        all.join("; ")
    }
}

/// A list for people.
pub(super) fn joined(addresses: &[Address]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
