//! A SPIFFE Workload API, as SPIRE's agent serves it: it says what a test wants, whole each time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "its runtime owns its tasks")]

use std::{path::Path, pin::Pin, sync::Arc};

use adit::rpc::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{UnixListenerStream, WatchStream},
};
use tonic::{Request, Response, Status, transport::Server};

use super::pki::{Ca, uri};

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
        let service = SpiffeWorkloadApiServer::new(Says(said));
        let listener = {
            let _on = runtime.enter();
            tokio::net::UnixListener::bind(path).unwrap()
        };
        let listener = UnixListenerStream::new(listener);
        runtime.spawn(Server::builder().add_service(service).serve_with_incoming(listener));
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

type Answers<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Says {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let said = WatchStream::new(self.0.clone()).filter(|answer| !answer.svids.is_empty());
        Ok(Response::new(Box::pin(said.map(Ok))))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
