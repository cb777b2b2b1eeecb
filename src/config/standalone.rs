//! The file of `adit proxy`: services that stand in front of others, each as the flags of
//! `adit server` and `adit client` describe one. It is validated as they are
//! ([`ServiceConfig::violations`]).

mod credential;
mod peers;
mod policy_file;
mod process;
mod service;
mod values;

use std::{collections::HashSet, path::Path};

use super::{
    Fault, Faults, KeyLines, LoadError, bounds, ca_server,
    kind::{FileKind, or_other},
    reader::{Files, Item, Notes},
};
use crate::{net::Address, roles::standalone::ServiceConfig};
pub use policy_file::load_policies;
pub(super) use policy_file::read_policies;
pub use process::Globals;
use service::service;

/// The longest file that is read, bytes.
const MAX_FILE: u64 = 32 << 20;
/// The most services of one process.
const MOST_SERVICES: usize = 1000;
/// A file of `adit proxy` without faults.
#[derive(Debug)]
pub struct StandaloneFile {
    /// In the order of the file; each has a name and a place to listen of its own.
    pub services: Vec<ServiceConfig>,
    /// What concerns the process.
    pub globals: Globals,
    /// Where the settings of the process stand.
    pub lines: KeyLines,
    /// Where the credential of each service stands, to say what is wrong with its files.
    pub credentials: Vec<Fault>,
}

/// Reads and checks a file of `adit proxy`, and the files of policies that it names.
///
/// # Errors
/// All faults at once.
pub fn load_standalone(path: &Path) -> Result<StandaloneFile, LoadError> {
    let text = bounds::read(path, MAX_FILE)?;
    let file = crate::identity::shown(path);
    Ok(check_standalone(&file, &text).map_err(|f| or_other(f, &text, FileKind::Services))?)
}

/// Checks a text; `file` is its name in faults.
///
/// # Errors
/// All faults at once.
pub fn check_standalone(file: &str, text: &str) -> Result<StandaloneFile, Faults> {
    check_standalone_for(file, text, Files::Here)
}

/// Checks a text like [`check_standalone`]; `files` says whether the files that it names are on
/// this machine.
///
/// # Errors
/// All faults at once.
pub fn check_standalone_for(
    file: &str,
    text: &str,
    files: Files,
) -> Result<StandaloneFile, Faults> {
    ca_server::parse_into(file, text, Notes::of(files), read)
}

fn read(root: &Item<'_>) -> Option<StandaloneFile> {
    let top = root.map(process::KEYS);
    let items = top.require("services").map(|item| item.list()).unwrap_or_default();
    if items.len() > MOST_SERVICES {
        root.fault(format!("{} services, at most {MOST_SERVICES} are allowed", items.len()));
        return None;
    }
    let services: Vec<_> = items.iter().filter_map(|i| Some((service(i)?, i))).collect();
    let globals = process::globals(&top);
    let (mut names, mut places) = (HashSet::new(), Vec::new());
    let taken = |places: &[(&Address, &str)], at: &Address| {
        let other = places.iter().find(|(other, _)| other.collides(at));
        other.map(|(at, name)| format!("{name} already listens at {at}"))
    };
    for (service, item) in &services {
        if !names.insert(&service.name) {
            item.fault(format!("there is already a service {}", service.name));
        }
        if let Some(why) = taken(&places, &service.listen) {
            item.find("listen").unwrap_or((*item).clone()).fault(why);
        }
        places.push((&service.listen, &service.name));
    }
    if let (Some(status), Some(item)) = (&globals.status.address, top.get("status"))
        && let Some(why) = taken(&places, &status.address)
    {
        item.find("listen").unwrap_or(item.clone()).fault(why);
    }
    let credential = |item: &Item<'_>| {
        let at = item.find("credential").unwrap_or(item.clone()).at("");
        Fault { key: format!("{}.credential", item.path), ..at }
    };
    Some(StandaloneFile {
        credentials: services.iter().map(|(_, item)| credential(item)).collect(),
        services: services.into_iter().map(|(service, _)| service).collect(),
        globals,
        lines: KeyLines::of(root),
    })
}

#[cfg(test)]
mod tests;
