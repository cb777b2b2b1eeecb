//! A SPIFFE Workload API, as SPIRE's agent serves it: it says what a test wants, whole each time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, sync::Arc};

use adit::rpc::workload::{X509svid, X509svidResponse};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};
use tokio_stream::{StreamExt as _, wrappers::WatchStream};
use tonic::Status;

use super::{
    agent::{Agent, Said, serve},
    pki::{Ca, uri},
};

/// A running one.
pub(crate) struct FakeSpire {
    ca: Arc<Ca>,
    say: watch::Sender<X509svidResponse>,
    runtime: Option<Runtime>,
}

impl FakeSpire {
    /// Listens at this path; `ca` signs what is said.
    pub(crate) fn listen(path: &Path, ca: Arc<Ca>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (say, said) = watch::channel(X509svidResponse::default());
        {
            let _on = runtime.enter();
            serve(path, Says(said));
        }
        Self { ca, say, runtime: Some(runtime) }
    }

    /// New SVIDs of these identities, and the roots of these other trust domains.
    pub(crate) fn says(&self, ids: &[&str], federated: &[(&str, &Ca)]) {
        let svid = |id: &&str| {
            let leaf = self.ca.leaf("a pod", |leaf| leaf.subject_alt_names = vec![uri(id)]);
            X509svid {
                spiffe_id: (*id).to_owned(),
                x509_svid: leaf.chain[0].to_vec(),
                x509_svid_key: leaf.key().secret_der().to_vec(),
                bundle: self.ca.root.to_vec(),
                hint: String::new(),
            }
        };
        let root = |(domain, ca): &(&str, &Ca)| (format!("spiffe://{domain}"), ca.root.to_vec());
        self.say.send_replace(X509svidResponse {
            svids: ids.iter().map(svid).collect(),
            crl: Vec::new(),
            federated_bundles: federated.iter().map(root).collect(),
        });
    }
}

impl Drop for FakeSpire {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Says(watch::Receiver<X509svidResponse>);

impl Agent for Says {
    fn x509_svids(&self) -> Result<Said<X509svidResponse>, Status> {
        let said = WatchStream::new(self.0.clone()).filter(|answer| !answer.svids.is_empty());
        Ok(Box::pin(said.map(Ok)))
    }
}
