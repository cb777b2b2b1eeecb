//! Files that are named in a file, each opened where it is named if that is asked for: so that all
//! that are missing are said at once, each in its place.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use super::reader::Item;
use crate::identity::{key_files, secret_advice, secret_file};

/// What a file is to hold.
#[derive(Clone, Copy)]
pub(super) enum Holds {
    Certificates,
    PrivateKey,
    Crls,
    /// What cannot be read without more, such as a password.
    Something,
    /// A password or the like, under this key.
    Secret(&'static str),
}

/// The path that an item names.
pub(super) fn path(item: &Item<'_>, holds: Holds) -> Option<PathBuf> {
    let path = PathBuf::from(item.text()?);
    if item.is_looked_at()
        && let Err(why) = open(&path, holds)
    {
        item.fault(why);
    }
    Some(path)
}

fn open(path: &Path, holds: Holds) -> Result<(), String> {
    let at = |why: &dyn Display| match holds {
        Holds::Secret(key) => {
            format!("{} cannot be read: {why}{}", secret_file(key, path), secret_advice(key, path))
        }
        _ => key_files::at(path, why),
    };
    let meta = std::fs::metadata(path).map_err(|e| at(&e))?;
    if meta.is_dir() {
        return Err(at(&"is a directory"));
    }
    if !meta.is_file() {
        // Who opens a pipe waits for its writer.
        return Ok(());
    }
    match holds {
        Holds::Certificates => key_files::certificates(path).map(drop),
        Holds::PrivateKey => key_files::private_key(path).map(drop),
        Holds::Crls => key_files::crls(path).map(drop),
        Holds::Something | Holds::Secret(_) => {
            std::fs::File::open(path).map(drop).map_err(|e| at(&e))
        }
    }
}
