//! What the services of a plan need of files and ports, and that they get no more.

use std::path::{Path, PathBuf};

use super::Plan;
use crate::{
    standalone::{Address, MaterialConfig, Role, ServiceConfig},
    sys::confine::{self, Extent, Needs},
};

/// Of the system: the resolver and what it loads, roots, time zones, and facts about ourselves.
const SYSTEM: &[&str] = &[
    "/etc",
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/var/lib/ca-certificates",
    "/proc",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
];

/// What has come of it.
pub(super) struct Confined {
    landlock: String,
    seccomp: String,
    files: &'static str,
}

impl Confined {
    /// For the log, once there is one.
    pub(super) fn log(&self) {
        let Self { landlock, seccomp, files } = self;
        tracing::info!(landlock, seccomp, files, "sandbox");
    }
}

/// Confines this process as the plan allows, whatever it was started by: what a process before it
/// was not allowed, it is not either, and what it adds is its own. Call it before any thread
/// starts.
///
/// # Errors
/// If more is required than the kernel does.
pub(super) fn confine(plan: &Plan) -> Result<Confined, String> {
    let sandbox = plan.globals.sandbox;
    let needs = needs(plan);
    let mut missing = Vec::new();
    let mut lacks = |why: String| {
        missing.push(why.clone());
        why
    };
    let landlock = match sandbox.landlock.then(|| confine::landlock(&needs)) {
        None => "off".to_owned(),
        Some(Ok(Extent::Full)) => "on".to_owned(),
        Some(Ok(Extent::Partial)) => lacks("in part: this kernel knows not all rules".into()),
        Some(Ok(Extent::Before)) => lacks(
            "that of the processes before this one: the kernel takes no more, so start adit anew"
                .into(),
        ),
        Some(Ok(Extent::None)) => lacks("off: this kernel has no Landlock".into()),
        Some(Err(why)) => lacks(format!("off: Landlock: {why}")),
    };
    let seccomp = match sandbox.seccomp.then(|| confine::seccomp(!needs.execute.is_empty())) {
        None => "off".to_owned(),
        Some(Ok(())) => "on".to_owned(),
        Some(Err(why)) => lacks(format!("off: seccomp: {why}")),
    };
    let files = match (sandbox.landlock, needs.any_file, needs.read_all) {
        (false, ..) => "open",
        (_, true, _) => "open: a PKCS#11 module has files of its own",
        (_, _, true) => "written only where services need it",
        _ => "only those that are named",
    };
    if needs.any_file && sandbox.landlock {
        lacks(format!("files stay {files}"));
    }
    if sandbox.required && !missing.is_empty() {
        return Err(format!("the sandbox is required, and is {}", missing.join("; ")));
    }
    Ok(Confined { landlock, seccomp, files })
}

fn needs(plan: &Plan) -> Needs {
    // Services of a file come and go: what they will read, and which ports, nobody knows yet.
    let fixed = plan.file.is_none();
    let mut needs = Needs { read_all: !fixed, ..Needs::default() };
    needs.read.extend(SYSTEM.iter().map(PathBuf::from));
    if !fixed {
        // Where the sockets of services lie that are added later.
        needs.write.extend(["/run", "/var/run", "/tmp"].map(PathBuf::from));
    }
    for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let value = std::env::var(variable).unwrap_or_default();
        value.split(':').filter(|path| !path.is_empty()).for_each(|path| {
            needs.read_file(Path::new(path));
            needs.read.push(path.into());
        });
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
        // A successor is started: the program as it is then, and what it loads.
        needs.execute.extend(["/usr/lib", "/usr/lib64", "/lib", "/lib64"].map(PathBuf::from));
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
        connect.extend(hbone.gateway.as_ref().map_or(Some(crate::tunnel::HBONE_PORT), port));
    }
    for file in service.material.files() {
        needs.read_file(&file);
    }
    service.access.files().for_each(|file| needs.read_file(file));
    match &service.material {
        MaterialConfig::WorkloadApi { endpoint, .. } => connect.extend(endpoint.port()),
        MaterialConfig::Files { .. } if service.material.on_token() => needs.any_file = true,
        MaterialConfig::Files { .. } => {}
    }
    if let Some(acme) = service.material.acme() {
        // Landlock's rules are about folders that are there.
        let _ = std::fs::create_dir_all(&acme.storage);
        needs.write.push(acme.storage.clone());
        connect.extend([443, acme.port()]);
        listen.extend(acme.challenge_port);
    }
}

impl Needs {
    /// Reads a file: its folder, as it may be replaced, and that of what it is a link to.
    fn read_file(&mut self, file: &Path) {
        let real = file.canonicalize().ok();
        for path in [Some(file), real.as_deref()].into_iter().flatten() {
            match folder(path) {
                Some(folder) => self.read.push(folder),
                None => self.read.push(path.to_owned()),
            }
        }
    }

    /// Makes and removes a file.
    fn write_beside(&mut self, file: &Path) {
        self.write.push(folder(file).unwrap_or_else(|| file.to_owned()));
    }

    /// Listens.
    fn at(&mut self, address: &Address, ports: &mut Vec<u16>) {
        match address {
            Address::Unix(path) => self.write_beside(path),
            other => ports.extend(port(other)),
        }
    }
}

/// Where a file lies, unless that is the root of everything.
fn folder(file: &Path) -> Option<PathBuf> {
    match file.parent()? {
        here if here.as_os_str().is_empty() => std::env::current_dir().ok(),
        root if root.parent().is_none() => None,
        folder => Some(folder.to_owned()),
    }
}

fn port(address: &Address) -> Option<u16> {
    match address {
        Address::Tcp { port, .. } => Some(*port),
        Address::Unix(_) | Address::Abstract(_) | Address::Systemd(_) => None,
    }
}
