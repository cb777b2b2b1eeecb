//! What a pod of this node is called.

use std::{fmt, sync::Arc};

/// A pod of this node, and how its workload is found in the mesh.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PodName {
    /// Unlike that of any other pod of this node; its keys are kept under it.
    pub uid: Arc<str>,
    /// Its name in Kubernetes, `namespace/name`.
    pub name: Arc<str>,
    /// Its workload is the one of this node that has its name, if it has this service account too;
    /// where there is none here, it is the one of the same uid.
    pub service_account: Option<Arc<str>>,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
