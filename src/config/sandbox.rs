//! The key `sandbox` of a file: how far its process confines itself.

use super::reader::Map;
use crate::sys::confine::Sandbox;

/// What it says; on as far as the kernel goes along where it is not there.
pub(super) fn read(top: &Map<'_>) -> Sandbox {
    let all = [
        ("bestEffort", Sandbox::default()),
        ("required", Sandbox { required: true, ..Sandbox::default() }),
        ("disabled", Sandbox { landlock: false, seccomp: false, required: false }),
    ];
    top.get("sandbox").and_then(|item| item.word(&all)).unwrap_or_default()
}
