//! Cilium's agent, as far as a node proxy sees it: workloads without services, versions or
//! clusters, no policies, no tokens, and leaves without key usage. Its CNI side is
//! [`super::fake_cni`]: the messages are the same.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "each binary takes what it needs; its runtime owns its tasks"
)]

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use adit::rpc::{
    address::{Address, TunnelProtocol, Workload, address::Type},
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
        aggregated_discovery_service_server::{
            AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
        },
    },
    istio_ca::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::{
            IstioCertificateService, IstioCertificateServiceServer,
        },
    },
};
use rcgen::{CertificateSigningRequestParams, IsCa, SanType};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::{
    fake_istiod::{ADDRESS, AUTHORIZATION, resource},
    grpc_server::serve_at,
    pki::{Ca, Leaf},
};

/// A pod, as Cilium knows it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Of Kubernetes.
    pub(crate) pod_uid: &'static str,
    pub(crate) name: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) service_account: &'static str,
    pub(crate) address: &'static str,
    /// The address of its node: Cilium knows nodes by that.
    pub(crate) node: &'static str,
}

impl Endpoint {
    /// As the agent says it: all else is left out, for each pod of the cluster.
    pub(crate) fn resource(&self) -> Resource {
        let address = match self.address.parse().unwrap() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let workload = Workload {
            uid: self.pod_uid.into(),
            name: self.name.into(),
            namespace: self.namespace.into(),
            service_account: self.service_account.into(),
            addresses: vec![address],
            node: self.node.into(),
            tunnel_protocol: TunnelProtocol::Hbone.into(),
            ..Workload::default()
        };
        resource(ADDRESS, self.pod_uid, "", &Address { r#type: Some(Type::Workload(workload)) })
    }
}

/// How leaves are made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Leaves {
    /// As the agent makes them.
    Bare,
    /// As X509-SVID wants them.
    Conforming,
}

/// One agent; the CA's key is the cluster's.
pub(crate) struct FakeCilium {
    state: Arc<State>,
    pub(crate) addr: SocketAddr,
    runtime: Option<Runtime>,
    /// Nobody is told to go.
    _goaway: oneshot::Sender<()>,
}

struct State {
    endpoints: Mutex<Vec<Endpoint>>,
    streams: Mutex<Vec<Stream>>,
    /// What an agent logs as an error.
    errors: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Stream {
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    expected: Arc<Mutex<HashSet<String>>>,
}

impl FakeCilium {
    /// Knows these pods. `bootstrap` is what it shows, and what proxies trust it by.
    pub(crate) fn start_at(
        addr: SocketAddr,
        bootstrap: &Leaf,
        (ca, leaves): (Arc<Ca>, Leaves),
        endpoints: &[Endpoint],
    ) -> Self {
        let (streams, errors) = Default::default();
        let state = Arc::new(State { endpoints: Mutex::new(endpoints.to_vec()), streams, errors });
        let signs = Signs { ca, leaves, state: Arc::clone(&state) };
        let services = Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(Ads(Arc::clone(&state))))
            .add_service(IstioCertificateServiceServer::new(signs));
        let (goaway, told) = oneshot::channel();
        let (addr, runtime) = serve_at(addr, bootstrap, services, told);
        Self { state, addr, runtime: Some(runtime), _goaway: goaway }
    }

    /// A pod has come, or is not what it was.
    pub(crate) fn upserts(&self, endpoint: &Endpoint) {
        let mut endpoints = self.state.endpoints.lock().unwrap();
        endpoints.retain(|one| one.pod_uid != endpoint.pod_uid);
        endpoints.push(endpoint.clone());
        drop(endpoints);
        self.tells(vec![endpoint.resource()], vec![]);
    }

    /// A pod has gone.
    pub(crate) fn removes(&self, pod_uid: &str) {
        self.state.endpoints.lock().unwrap().retain(|one| one.pod_uid != pod_uid);
        self.tells(vec![], vec![pod_uid.into()]);
    }

    fn tells(&self, resources: Vec<Resource>, removed_resources: Vec<String>) {
        for stream in &*self.state.streams.lock().unwrap() {
            let resources = resources.clone();
            let removed_resources = removed_resources.clone();
            stream.answer(DeltaDiscoveryResponse {
                type_url: ADDRESS.into(),
                nonce: nonce(),
                resources,
                removed_resources,
                ..DeltaDiscoveryResponse::default()
            });
        }
    }

    /// What it has logged as errors.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.state.errors.lock().unwrap().clone()
    }
}

impl Drop for FakeCilium {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl Stream {
    /// A stream that has ended hears nothing more.
    fn answer(&self, response: DeltaDiscoveryResponse) {
        self.expected.lock().unwrap().insert(response.nonce.clone());
        let _ = self.responses.try_send(Ok(response));
    }
}

impl State {
    /// A request: an acknowledgement if it has a nonce, else a subscription.
    fn hears(&self, stream: &Stream, request: DeltaDiscoveryRequest) {
        let mut log = self.errors.lock().unwrap();
        if !request.response_nonce.is_empty() {
            if !stream.expected.lock().unwrap().remove(&request.response_nonce) {
                log.push(format!("unexpected nonce {:?}", request.response_nonce));
            }
            log.extend(request.error_detail.map(|nack| format!("NACK: {}", nack.message)));
            return;
        }
        let (nonce, resources) = match &*request.type_url {
            ADDRESS => {
                let all = self.endpoints.lock().unwrap();
                (nonce(), all.iter().map(Endpoint::resource).collect())
            }
            AUTHORIZATION => ("0".to_owned(), Vec::new()),
            other => return log.push(format!("unexpected type {other:?}")),
        };
        let type_url = request.type_url;
        stream.answer(DeltaDiscoveryResponse {
            type_url,
            nonce,
            resources,
            ..DeltaDiscoveryResponse::default()
        });
    }
}

struct Ads(Arc<State>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, to_send) = mpsc::channel(64);
        let stream = Stream { responses, expected: Arc::default() };
        self.0.streams.lock().unwrap().push(stream.clone());
        let (state, mut requests) = (Arc::clone(&self.0), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                state.hears(&stream, request);
            }
        });
        Ok(Response::new(to_send.into()))
    }
}

struct Signs {
    ca: Arc<Ca>,
    leaves: Leaves,
    state: Arc<State>,
}

#[tonic::async_trait]
impl IstioCertificateService for Signs {
    /// For whom a pod is on a node; nobody is asked for a token.
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let csr = &request.get_ref().csr;
        let asked = CertificateSigningRequestParams::from_pem(csr)
            .map_err(|e| Status::unknown(e.to_string()))?;
        let uris = asked.params.subject_alt_names.iter().filter_map(|name| match name {
            SanType::URI(uri) => Some(uri.to_string()),
            _ => None,
        });
        let uris: Vec<String> = uris.collect();
        let [uri] = &uris[..] else { return Err(Status::unknown("exactly one URI SAN")) };
        let parts: Vec<&str> = uri.split('/').collect();
        let ["spiffe:", "", _, "ns", namespace, "sa", account] = parts[..] else {
            return Err(Status::unknown(format!("URI {uri:?}")));
        };
        let is_of = |one: &Endpoint| one.namespace == namespace && one.service_account == account;
        if !self.state.endpoints.lock().unwrap().iter().any(is_of) {
            return Err(Status::unknown(format!("no endpoints of {namespace}/{account}")));
        }
        let leaf = self.ca.sign_as(csr, |leaf| {
            if self.leaves == Leaves::Bare {
                let lifetime = Duration::from_secs(30 * 86_400);
                (leaf.key_usages, leaf.extended_key_usages) = Default::default();
                (leaf.is_ca, leaf.not_after) = (IsCa::NoCa, leaf.not_before + lifetime);
            }
        });
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![leaf, self.ca.pem.clone()] }))
    }
}
