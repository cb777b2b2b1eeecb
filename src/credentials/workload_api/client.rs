//! A client of anybody's SPIFFE Workload API: calls and streams, answers as domain types that
//! keep the rules. It does not reconnect or retry: who holds a stream decides that, by
//! [`ClientError::retry`]. Not here: keeping SVIDs ([`crate::credentials::Svids`]).

mod decode;
mod error;
mod types;

use std::time::Duration;

use serde_json::{Map, Value};
use tonic::{
    Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint as Tcp},
};

use self::decode::{add_crls, bundle_set, json, parse_id, x509_context};
pub(crate) use self::decode::{certificates, domain_of_key};
pub(crate) use self::decode::{key_matches, tokens};
pub use self::{
    error::{ClientError, code_name},
    types::{HintedSvid, HintedToken, KeySets, X509Context},
};
use super::Endpoint;
use crate::{
    identity::{BundleSet, SpiffeId},
    rpc::{
        self,
        workload::{
            JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, ValidateJwtsvidRequest,
            X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
            spiffe_workload_api_client::SpiffeWorkloadApiClient,
        },
    },
};

/// The environment variable that names the endpoint (Workload Endpoint §4).
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// The longest message that is taken, bytes.
const MESSAGE: usize = 16 << 20;
/// How long a call that is no stream may take.
const CALL: Duration = Duration::from_secs(15);

/// A client.
#[derive(Clone, Debug)]
pub struct Client(SpiffeWorkloadApiClient<Channel>);

/// Whole states as they come. Dropping it ends the stream.
#[derive(Debug)]
pub struct Updates<M> {
    stream: Streaming<M>,
}

impl Client {
    /// A client that connects at the first call. Needs a running runtime.
    #[must_use]
    pub fn new(endpoint: &Endpoint) -> Self {
        Self::over(channel(endpoint))
    }

    fn over(channel: Channel) -> Self {
        Self(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MESSAGE))
    }

    /// SVIDs with their bundles, now and after each change.
    ///
    /// # Errors
    /// If the stream does not begin; see [`Updates::next`] for what follows.
    pub async fn x509(&self) -> Result<Updates<X509svidResponse>, ClientError> {
        let stream = self.0.clone().fetch_x509svid(with_header(X509svidRequest {})).await?;
        Ok(Updates { stream: stream.into_inner() })
    }

    /// X.509 bundles, now and after each change.
    ///
    /// # Errors
    /// If the stream does not begin.
    pub async fn x509_bundles(&self) -> Result<Updates<X509BundlesResponse>, ClientError> {
        let stream = self.0.clone().fetch_x509_bundles(with_header(X509BundlesRequest {})).await?;
        Ok(Updates { stream: stream.into_inner() })
    }

    /// JWT bundles, now and after each change.
    ///
    /// # Errors
    /// If the stream does not begin.
    pub async fn jwt_bundles(&self) -> Result<Updates<JwtBundlesResponse>, ClientError> {
        let stream = self.0.clone().fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await?;
        Ok(Updates { stream: stream.into_inner() })
    }

    /// JWT-SVIDs for these audiences: of one identity, or of each that the caller has. They come
    /// as they are: who relies on one validates it.
    ///
    /// # Errors
    /// What the server says, or an answer without tokens or with somebody else's.
    pub async fn jwt(
        &self,
        audience: &[String],
        id: Option<&SpiffeId>,
    ) -> Result<Vec<HintedToken>, ClientError> {
        let spiffe_id = id.map(ToString::to_string).unwrap_or_default();
        let mut grpc = self.0.clone();
        let request = with_header(JwtsvidRequest { audience: audience.to_vec(), spiffe_id });
        tokens(in_time(grpc.fetch_jwtsvid(request)).await?, id)
    }

    /// Has the server judge a token: whose it is, and its claims.
    ///
    /// # Errors
    /// InvalidArgument says why it is not valid.
    pub async fn validate_jwt(
        &self,
        audience: &str,
        token: &str,
    ) -> Result<(SpiffeId, Map<String, Value>), ClientError> {
        let mut grpc = self.0.clone();
        let request = ValidateJwtsvidRequest { audience: audience.into(), svid: token.into() };
        let answer = in_time(grpc.validate_jwtsvid(with_header(request))).await?;
        let claims = answer.claims.unwrap_or_default().fields;
        let claims = claims.into_iter().map(|(name, value)| (name, json(value)));
        Ok((parse_id(&answer.spiffe_id)?, claims.collect()))
    }
}

/// The way to an endpoint. Needs a running runtime.
pub(crate) fn channel(endpoint: &Endpoint) -> Channel {
    match endpoint {
        Endpoint::Unix(path) => rpc::connect(path),
        Endpoint::Tcp(address) => Tcp::from_shared(format!("http://{address}"))
            .expect("an address makes a URI")
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .connect_lazy(),
    }
}

impl Updates<X509svidResponse> {
    /// The next state, whole: what is absent is gone. An answer that is not usable leaves the
    /// stream as it is.
    ///
    /// # Errors
    /// What ended the stream, or which rule the answer breaks.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<X509Context, ClientError> {
        x509_context(self.message().await?)
    }
}

impl Updates<X509BundlesResponse> {
    /// As [`Updates::<X509svidResponse>::next`].
    ///
    /// # Errors
    /// The same.
    pub async fn next(&mut self) -> Result<BundleSet, ClientError> {
        let message = self.message().await?;
        let mut bundles = bundle_set(message.bundles)?;
        add_crls(&mut bundles, message.crl);
        Ok(bundles)
    }
}

impl Updates<JwtBundlesResponse> {
    /// As [`Updates::<X509svidResponse>::next`].
    ///
    /// # Errors
    /// The same.
    pub async fn next(&mut self) -> Result<KeySets, ClientError> {
        let message = self.message().await?;
        let key_set = |(key, set): (String, Vec<u8>)| Ok((domain_of_key(&key)?, set));
        let mut sets: KeySets =
            message.bundles.into_iter().map(key_set).collect::<Result<_, ClientError>>()?;
        sets.sort();
        Ok(sets)
    }
}

impl<M> Updates<M> {
    /// A stream that has begun.
    pub(crate) fn of(stream: Streaming<M>) -> Self {
        Self { stream }
    }

    async fn message(&mut self) -> Result<M, ClientError> {
        self.stream.message().await?.ok_or(ClientError::Ended)
    }
}

/// A request with the security header.
fn with_header<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// A call that is no stream.
pub(crate) async fn in_time<M>(
    call: impl Future<Output = Result<tonic::Response<M>, Status>>,
) -> Result<M, ClientError> {
    let answer = tokio::time::timeout(CALL, call).await.map_err(|_| ClientError::Slow(CALL))?;
    Ok(answer?.into_inner())
}
