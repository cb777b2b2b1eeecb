//! What `adit run` and `adit ca serve` need of files, ports and system calls, and that they get no
//! more.

use std::path::{Path, PathBuf};

use super::process::sandbox::{Confined, LIBRARIES, confine};
use crate::{
    authority::serve::{Endpoint, KeysFrom},
    config::{AdminAddress, CaConfig, CaServerConfig, Checked},
    mesh::{AppHop, NetnsRef},
    sys::confine::Needs,
};

/// Where tools are looked for without `PATH`.
const TOOLS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Landlock keeps a process from all others' `/proc/PID/ns`, `exe` and the like.
const PODS: &str = "pods are named by process IDs, which Landlock would hide from adit";
const CALLERS: &str =
    "workloadApi identifies callers by /proc, which Landlock would hide from adit";

/// Confines a node: the mesh file may name any file to read later, but what is written is known.
/// Call it before any thread starts.
///
/// # Errors
/// If more is required than the kernel does.
pub(super) fn confine_node(checked: &Checked, takeover: Option<&Path>) -> Result<Confined, String> {
    let pods = checked.local_workloads();
    let mut needs = Needs { read_all: true, enter_namespaces: true, ..Needs::default() };
    needs.map_entries = pods.iter().any(|pod| pod.app_hop() == AppHop::Sockmap);
    if let CaConfig::Embedded { dir, .. } = &checked.ca {
        needs.write_in(dir);
    }
    if let Some(dir) = &checked.federation.state_dir {
        needs.write_in(dir);
    }
    let api = checked.workload_api.as_ref().map(|api| &api.socket);
    let admin = match &checked.settings.admin {
        AdminAddress::Unix(path) => Some(path),
        AdminAddress::Tcp(_) => None,
    };
    for folder in [api, admin].into_iter().flatten().filter_map(|socket| socket.parent()) {
        needs.write_in(folder);
    }
    // nft and ip, which are confined as adit is.
    let path = std::env::var_os("PATH").unwrap_or_else(|| TOOLS.into());
    let tools = std::env::split_paths(&path).filter(|p| p.is_absolute() && p.parent().is_some());
    needs.execute = tools.chain(LIBRARIES.iter().map(PathBuf::from)).collect();
    if let Some(path) = takeover {
        needs.write_beside(path);
        // SIGUSR2 starts a new process: the program as it is on disk then.
        let program = std::env::current_exe().ok();
        needs.execute.extend(program.and_then(|p| Some(p.parent()?.to_owned())));
    }
    let by_process = pods.iter().filter_map(|pod| pod.netns()).any(is_of_process);
    let beyond = match (by_process, api) {
        (true, _) => Some(PODS),
        (false, Some(_)) => Some(CALLERS),
        (false, None) => None,
    };
    confine(checked.settings.sandbox, &needs, beyond)
}

/// Whether a namespace is found by a process that has it, other than this one.
pub(super) fn is_of_process(netns: &NetnsRef) -> bool {
    let of_other = |path: &Path| {
        let own = ["/proc/self", "/proc/thread-self"].iter().any(|own| path.starts_with(own));
        path.starts_with("/proc") && !own
    };
    let path = netns.path();
    let link = std::fs::read_link(&path).ok();
    of_other(&path) || link.is_some_and(|to| of_other(&to))
}

/// Confines a CA server, all of whose files and ports its own file names. Call it before any thread
/// starts.
///
/// # Errors
/// If more is required than the kernel does.
pub(super) fn confine_ca(file: &Path, config: &CaServerConfig) -> Result<Confined, String> {
    let mut needs = Needs::default();
    needs.read_system();
    // It is read again when it has changed.
    needs.read_file(file);
    needs.write_in(&config.dir);
    config.pods.iter().for_each(|file| needs.read_file(file));
    let attestors = &config.server.attestors;
    attestors.join.iter().for_each(|join| needs.write_in(&join.dir));
    let mut connect = vec![53];
    let mut ask = |needs: &mut Needs, endpoint: &Endpoint| {
        needs.read_file(&endpoint.roots);
        connect.push(endpoint.server.port);
    };
    if let Some(kubernetes) = &attestors.kubernetes {
        match &kubernetes.keys {
            Some(KeysFrom::File(file)) => needs.read_file(file),
            Some(KeysFrom::Url(endpoint)) => ask(&mut needs, endpoint),
            None => {}
        }
        if let Some(review) = &kubernetes.review {
            needs.read_file(&review.token);
            ask(&mut needs, &review.endpoint);
        }
    }
    let listen = std::iter::once(config.server.listen.port());
    needs.listen = Some(listen.chain(config.metrics.map(|at| at.port())).collect());
    needs.connect = Some(connect);
    confine(config.sandbox, &needs, None)
}
