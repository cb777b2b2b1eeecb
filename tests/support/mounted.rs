//! A file in the place of another, for this process and those that it starts: only where it has
//! mounts of its own.

use std::{path::Path, process::Command};

/// The file over `place`, until it is dropped.
pub(crate) struct Mounted {
    place: &'static str,
}

impl Mounted {
    pub(crate) fn over(place: &'static str, file: &Path) -> Self {
        let mounted = Command::new("mount").arg("--bind").arg(file).arg(place).status();
        assert!(mounted.expect("mount").success(), "{} over {place}", file.display());
        Self { place }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.place).status();
    }
}
