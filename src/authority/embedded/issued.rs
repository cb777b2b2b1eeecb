//! `issued.jsonl`: what was issued and has not expired, so that a ban can revoke it. One line per
//! SVID, appended before the SVID is handed out; expired ones are dropped now and then.

use std::{
    fs::OpenOptions,
    io::{self, BufRead, BufReader, BufWriter, Write},
};

use serde::{Deserialize, Serialize};

use super::{
    error::CaError,
    store::{Lock, Store},
};
use crate::sys::files;

const ISSUED: &str = "issued.jsonl";
/// About a million SVIDs at once.
const LARGEST: u64 = 128 << 20;
/// Below this it is not worth rewriting.
const SMALL: u64 = 64 << 10;

/// One X.509-SVID.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Issued {
    /// Lower-case hex.
    pub(super) serial: String,
    pub(super) id: String,
    pub(super) not_after: u64,
    /// The authority that signed it.
    pub(super) issuer: String,
}

/// Notes an SVID. A line begins with its newline: behind one that a crash cut off, it stands alone.
pub(super) fn append(store: &Store, _lock: &Lock, issued: &Issued) -> Result<(), CaError> {
    let path = store.path(ISSUED);
    let failed = |e: &io::Error| CaError::io(&path, e, "cannot be written, so nothing is issued");
    let mut file =
        files::open_or_make(&path, OpenOptions::new().append(true)).map_err(|e| failed(&e))?;
    if file.metadata().map_err(|e| failed(&e))?.len() > LARGEST {
        let why = "lists a million SVIDs that have not expired, which is the limit: no more are issued \
             until some expire; shorten svidLifetime, and find the client that requests so many";
        return Err(CaError::file(path, why));
    }
    let line = serde_json::to_string(issued).map_err(|e| CaError::Sign(e.to_string()))?;
    file.write_all(format!("\n{line}").as_bytes()).map_err(|e| failed(&e))
}

/// All that has not expired, a line at a time; lines that a crash cut off are skipped.
pub(super) fn each(store: &Store, now: u64, mut seen: impl FnMut(Issued)) -> Result<(), CaError> {
    let path = store.path(ISSUED);
    let failed = |e: &io::Error| CaError::io(&path, e, "cannot be read");
    let file = match files::own(&path, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(&e)),
    };
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|e| failed(&e))?;
        if let Ok(issued) = serde_json::from_slice::<Issued>(&line)
            && issued.not_after > now
        {
            seen(issued);
        }
    }
    Ok(())
}

/// On the disk even if the machine stops now.
pub(super) fn sync(store: &Store) -> Result<(), CaError> {
    let path = store.path(ISSUED);
    let mut options = OpenOptions::new();
    match files::own(&path, options.append(true)).and_then(|f| f.sync_data()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(CaError::io(path, &e, "cannot be synced"))
        }
        _ => Ok(()),
    }
}

/// Whether it grew to twice of what the last pruning left.
pub(super) fn prune_due(store: &Store, left: u64) -> bool {
    let size = std::fs::metadata(store.path(ISSUED)).map_or(0, |m| m.len());
    size > SMALL.max(2 * left).min(LARGEST / 2)
}

/// Drops what has expired; returns the size that is left.
pub(super) fn prune(store: &Store, _lock: &Lock, now: u64) -> Result<u64, CaError> {
    let path = store.path(ISSUED);
    let temp = files::unfinished(&path);
    let failed = |e: &io::Error| CaError::io(&path, e, "cannot be pruned");
    let file = files::make_unfinished(&path, 0o600).map_err(|e| failed(&e))?;
    let mut out = BufWriter::new(file);
    let mut result = Ok(());
    each(store, now, |issued| {
        if result.is_ok() {
            let line = serde_json::to_string(&issued).map_err(io::Error::other);
            result = line.and_then(|line| write!(out, "\n{line}"));
        }
    })?;
    let done = result.and_then(|()| out.into_inner().map_err(io::IntoInnerError::into_error));
    let file = done.map_err(|e| failed(&e))?;
    let renamed = file.sync_all().and_then(|()| std::fs::rename(&temp, &path));
    renamed.map_err(|e| failed(&e))?;
    file.metadata().map(|m| m.len()).map_err(|e| failed(&e))
}
