//! A SPIFFE Workload API whose streams a test makes; nothing else is asked of it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "each binary takes what it needs; whose runtime it is owns its tasks"
)]

use std::{path::Path, pin::Pin};

use adit::rpc::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use tokio::net::UnixListener;
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, transport::Server};

/// What is said to one call.
pub(crate) type Said<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Who says it.
pub(crate) trait Agent: Send + Sync + 'static {
    /// To a call that fetches X.509-SVIDs.
    fn x509_svids(&self) -> Result<Said<X509svidResponse>, Status>;

    /// To a call that fetches JWT bundles.
    fn jwt_bundles(&self) -> Result<Said<JwtBundlesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Serves at this path for as long as the current runtime runs.
pub(crate) fn serve(path: &Path, agent: impl Agent) {
    let listener = UnixListenerStream::new(UnixListener::bind(path).unwrap());
    let service = SpiffeWorkloadApiServer::new(Api(agent));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(listener));
}

struct Api<A>(A);

#[tonic::async_trait]
impl<A: Agent> SpiffeWorkloadApi for Api<A> {
    type FetchX509SVIDStream = Said<X509svidResponse>;
    type FetchX509BundlesStream = Said<X509BundlesResponse>;
    type FetchJWTBundlesStream = Said<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.0.x509_svids().map(Response::new)
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
        self.0.jwt_bundles().map(Response::new)
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
