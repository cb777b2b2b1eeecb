//! Files of Istio `AuthorizationPolicy` documents.

use std::{path::Path, sync::Arc};

use crate::{
    config::{
        Faults, LoadError, bounds, policies,
        reader::{Item, Notes, documents},
    },
    policy::{Policy, Rules},
};

/// The longest file of policies, bytes.
const MAX_POLICIES: u64 = 4 << 20;

/// Reads Istio `AuthorizationPolicy` documents; all of them apply.
///
/// # Errors
/// All faults at once, with fields of HTTP among them; a file without policies.
pub fn load_policies(path: &Path) -> Result<Arc<Rules>, LoadError> {
    Ok(Arc::new(Rules::compile(read_policies(path)?.iter())))
}

/// The policies of a file, at least one.
pub(in crate::config) fn read_policies(path: &Path) -> Result<Vec<Arc<Policy>>, LoadError> {
    let text = bounds::read(path, MAX_POLICIES)?;
    let file = crate::identity::shown(path);
    let documents = documents(&text).map_err(|fault| Faults::one(&file, fault))?;
    let notes = Notes::default();
    let filled = documents.iter().filter(|document| !document.data.is_null());
    let name: Arc<str> = file.as_str().into();
    let of = |document| policies::read_all(&Item::root(document, &notes), &name);
    let read: Vec<_> = filled.flat_map(of).map(Arc::new).collect();
    if !notes.is_clean() {
        return Err(notes.into_faults(&file).into());
    }
    if read.is_empty() {
        let why = "expected AuthorizationPolicy documents: without one no client is allowed";
        return Err(Faults::at_start(&file, why).into());
    }
    Ok(read)
}
