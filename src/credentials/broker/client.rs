//! Calls of the Broker API for one pod: answers as domain types that keep the rules of the
//! Workload API, whose shape they have.

use tonic::{Request, metadata::MetadataValue, transport::Channel};

use super::reference::Reference;
use crate::{
    credentials::workload_api::client::{ClientError, HintedToken, Updates, in_time, tokens},
    identity::SpiffeId,
    rpc::{
        broker::{FetchJwtsvidRequest, SubscribeRequest, WorkloadReference, api_client::ApiClient},
        workload::{JwtBundlesResponse, X509svidResponse},
    },
};

/// The longest message that is taken, bytes.
const MESSAGE: usize = 4 << 20;

/// A client for one pod.
pub(super) struct BrokerClient {
    api: ApiClient<Channel>,
    reference: WorkloadReference,
}

impl BrokerClient {
    pub(super) fn new(channel: Channel, reference: &Reference) -> Self {
        let api = ApiClient::new(channel).max_decoding_message_size(MESSAGE);
        Self { api, reference: reference.wire() }
    }

    /// SVIDs with their bundles, now and after each change (§5.2.1).
    pub(super) async fn x509(mut self) -> Result<Updates<X509svidResponse>, ClientError> {
        let request = with_header(SubscribeRequest { reference: Some(self.reference) });
        Ok(Updates::of(self.api.subscribe_to_x509svid(request).await?.into_inner()))
    }

    /// JWT bundles, now and after each change (§6.2.2).
    pub(super) async fn jwt_bundles(mut self) -> Result<Updates<JwtBundlesResponse>, ClientError> {
        let request = with_header(SubscribeRequest { reference: Some(self.reference) });
        Ok(Updates::of(self.api.subscribe_to_jwt_bundles(request).await?.into_inner()))
    }

    /// JWT-SVIDs of exactly `id` (§6.2.1).
    pub(super) async fn jwt(
        mut self,
        audience: &[String],
        id: &SpiffeId,
    ) -> Result<Vec<HintedToken>, ClientError> {
        let request = FetchJwtsvidRequest {
            reference: Some(self.reference),
            audience: audience.to_vec(),
            spiffe_id: id.to_string(),
        };
        tokens(in_time(self.api.fetch_jwtsvid(with_header(request))).await?, Some(id))
    }
}

/// A request with the security header (Broker Endpoint §3).
fn with_header<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("broker.spiffe.io", MetadataValue::from_static("true"));
    request
}
