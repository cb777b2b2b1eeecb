//! What is said of the options that are not carried by [`super::service`].

use super::{
    support::{OptionSupport, support},
    text::ConfLine,
    warning::Warning,
};

/// Those that only the part before the sections has.
const GLOBAL: &[&str] = &[
    "chroot",
    "debug",
    "egd",
    "engine",
    "enginectrl",
    "enginedefault",
    "fips",
    "foreground",
    "iconactive",
    "iconerror",
    "iconidle",
    "include",
    "log",
    "output",
    "pid",
    "provider",
    "providerparameter",
    "rndbytes",
    "rndfile",
    "rndoverwrite",
    "service",
    "setenv",
    "socket",
    "syslog",
    "taskbar",
    "compression",
];

/// A remark on a line that concerns the process; the rest is for the services.
pub(super) fn warning_on_global(line: &ConfLine) -> Option<Warning> {
    let option = line.option.to_ascii_lowercase();
    GLOBAL.contains(&option.as_str()).then(|| warning(line)).flatten()
}

/// What is to be said of a line that is not carried.
pub(super) fn warning(line: &ConfLine) -> Option<Warning> {
    match support(&line.option, &line.value) {
        OptionSupport::Imported | OptionSupport::Needless => None,
        OptionSupport::Lost(why) => Some(line.warning(false, why)),
        OptionSupport::Grave(why) => Some(line.warning(true, why)),
    }
}

/// Whether a line of a service is one of the process.
pub(super) fn is_global(line: &ConfLine) -> bool {
    GLOBAL.contains(&line.option.to_ascii_lowercase().as_str())
}
