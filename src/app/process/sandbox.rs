//! A process gets no more files, ports and system calls than it says it needs.

use std::path::{Path, PathBuf};

use crate::sys::confine::{self, Extent, Needs, Sandbox};

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

/// Where programs find what they load before they run.
pub(in crate::app) const LIBRARIES: &[&str] =
    &["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/nix/store", "/gnu/store"];

/// What has come of it.
pub(in crate::app) struct Confined {
    landlock: String,
    seccomp: String,
    files: &'static str,
    /// Whether Landlock keeps this process from looking at others in `/proc`.
    pub(in crate::app) alone: bool,
}

impl Confined {
    /// For the log, once there is one.
    pub(in crate::app) fn log(&self) {
        let Self { landlock, seccomp, files, alone: _ } = self;
        tracing::info!(landlock, seccomp, files, "sandbox");
    }
}

/// Confines this process to what it needs, whatever it was started by: what a process before it
/// was not allowed, it is not either, and what it adds is its own. `beyond` is what it needs that
/// Landlock cannot leave it. Call it before any thread starts.
///
/// # Errors
/// If more is required than the kernel does.
pub(in crate::app) fn confine(
    sandbox: Sandbox,
    needs: &Needs,
    beyond: Option<&str>,
) -> Result<Confined, String> {
    let mut missing = Vec::new();
    let mut lacks = |why: String| {
        missing.push(why.clone());
        why
    };
    let asked = sandbox.landlock.then(|| match beyond {
        Some(why) => Err(why.to_owned()),
        None => confine::landlock(needs).map_err(|why| format!("Landlock: {why}")),
    });
    let alone = !matches!(asked, None | Some(Ok(Extent::None) | Err(_)));
    let landlock = match asked {
        None => "off".to_owned(),
        Some(Ok(Extent::Full)) => "on".to_owned(),
        Some(Ok(Extent::Partial)) => {
            lacks("partial: this kernel does not support all rules".into())
        }
        Some(Ok(Extent::Before)) => lacks(
            "unchanged since an earlier process: the kernel allows no more layers, so restart adit \
             to renew it"
                .into(),
        ),
        Some(Ok(Extent::None)) => lacks("off: this kernel has no Landlock".into()),
        Some(Err(why)) => lacks(format!("off: {why}")),
    };
    let seccomp = match sandbox.seccomp.then(|| confine::seccomp(needs)) {
        None => "off".to_owned(),
        Some(Ok(())) => "on".to_owned(),
        Some(Err(why)) => lacks(format!("off: seccomp: {why}")),
    };
    let files = match (sandbox.landlock && beyond.is_none(), needs.any_file, needs.read_all) {
        (false, ..) => "open",
        (_, true, _) => "open: a PKCS#11 module needs files that adit does not know",
        (_, _, true) => "readable everywhere, writable only where needed",
        _ => "limited to the configured ones",
    };
    if needs.any_file && sandbox.landlock {
        lacks(format!("access to files is {files}"));
    }
    if sandbox.required && !missing.is_empty() {
        return Err(format!("the sandbox is required, and is {}", missing.join("; ")));
    }
    Ok(Confined { landlock, seccomp, files, alone })
}

impl Needs {
    /// Reads what the libraries of the system read.
    pub(in crate::app) fn read_system(&mut self) {
        self.read.extend(SYSTEM.iter().map(PathBuf::from));
        for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
            let value = std::env::var(variable).unwrap_or_default();
            value.split(':').filter(|path| !path.is_empty()).for_each(|path| {
                self.read_file(Path::new(path));
                self.read.push(path.into());
            });
        }
    }

    /// Reads a file: its folder, as it may be replaced, and that of what it is a link to.
    pub(in crate::app) fn read_file(&mut self, file: &Path) {
        let real = file.canonicalize().ok();
        for path in [Some(file), real.as_deref()].into_iter().flatten() {
            match folder(path) {
                Some(folder) => self.read.push(folder),
                None => self.read.push(path.to_owned()),
            }
        }
    }

    /// Makes and removes a file.
    pub(in crate::app) fn write_beside(&mut self, file: &Path) {
        self.write.push(folder(file).unwrap_or_else(|| file.to_owned()));
    }

    /// Makes and removes files in a folder, which is made here: rules are about what is there. Who
    /// needs it says why it cannot be made.
    pub(in crate::app) fn write_in(&mut self, folder: &Path) {
        let _ = std::fs::create_dir_all(folder);
        self.write.push(folder.to_owned());
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
