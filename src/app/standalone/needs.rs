//! What the services of a plan need of files and ports, and that they get no more.

use std::path::PathBuf;

use super::plan::Plan;
use crate::{
    app::process::sandbox::{self, Confined, LIBRARIES},
    credentials::store::CredentialsConfig,
    net::Address,
    roles::standalone::{Role, ServiceConfig},
    sys::confine::Needs,
};

/// Confines this process as the plan allows. Call it before any thread starts.
///
/// # Errors
/// If more is required than the kernel does.
pub(super) fn confine(plan: &Plan) -> Result<Confined, String> {
    sandbox::confine(plan.globals.sandbox, &needs(plan), None)
}

fn needs(plan: &Plan) -> Needs {
    // Services of a file come and go: what they will read, and which ports, nobody knows yet.
    let fixed = plan.file.is_none();
    let mut needs = Needs { read_all: !fixed, ..Needs::default() };
    needs.read_system();
    if !fixed {
        // Where the sockets of services lie that are added later.
        needs.write.extend(["/run", "/var/run", "/tmp"].map(PathBuf::from));
    }
    let (mut listen, mut connect) = (Vec::new(), vec![53]);
    for service in &plan.services {
        of_service(service, &mut needs, &mut listen, &mut connect);
    }
    let status = &plan.globals.status;
    if let Some(address) = &status.address {
        needs.at(&address.address, &mut listen);
    }
    connect.extend(status.url.as_ref().map(|url| url.port));
    connect.extend(status.graphite.as_ref().and_then(port));
    status.roots.iter().for_each(|roots| needs.read_file(roots));
    if let Some(path) = &plan.globals.takeover {
        needs.write_beside(path);
        // SIGUSR2 starts a new process: the program as it is on disk then, and what it loads.
        needs.execute.extend(LIBRARIES.iter().map(PathBuf::from));
        let program = std::env::current_exe().ok();
        needs.execute.extend(program.and_then(|p| Some(p.parent()?.to_owned())));
    }
    // Some modules speak with their token over TCP.
    let known = fixed && !needs.any_file;
    (needs.listen, needs.connect) = (fixed.then_some(listen), known.then_some(connect));
    needs
}

/// What one of them needs.
fn of_service(
    service: &ServiceConfig,
    needs: &mut Needs,
    listen: &mut Vec<u16>,
    connect: &mut Vec<u16>,
) {
    needs.at(&service.listen, listen);
    connect.extend(service.targets.iter().filter_map(port));
    let checked = service.health.as_ref().and_then(|health| health.http.as_ref()?.at.as_ref());
    connect.extend(checked.and_then(port));
    connect.extend(service.proxy.as_ref().and_then(|proxy| port(proxy.address())));
    if let (Some(hbone), Role::Client) = (&service.hbone, service.role) {
        connect.extend(hbone.gateway.as_ref().map_or(Some(crate::hbone::HBONE_PORT), port));
    }
    for file in service.credentials.files() {
        needs.read_file(&file);
    }
    service.access.files().for_each(|file| needs.read_file(file));
    match &service.credentials {
        CredentialsConfig::WorkloadApi { endpoint, .. } => connect.extend(endpoint.port()),
        CredentialsConfig::Files { .. } if service.credentials.on_token() => needs.any_file = true,
        CredentialsConfig::Files { .. } => {}
    }
    if let Some(acme) = service.credentials.acme() {
        needs.write_in(&acme.storage);
        connect.extend([443, acme.port()]);
        listen.extend(acme.challenge_port);
    }
}

impl Needs {
    /// Listens.
    fn at(&mut self, address: &Address, ports: &mut Vec<u16>) {
        match address {
            Address::Unix(path) => self.write_beside(path),
            other => ports.extend(port(other)),
        }
    }
}

fn port(address: &Address) -> Option<u16> {
    match address {
        Address::Tcp { port, .. } => Some(*port),
        Address::Unix(_) | Address::Abstract(_) | Address::Systemd(_) => None,
    }
}
