//! A client of anybody's SPIFFE Workload API: calls and streams, answers as domain types that
//! keep the rules. It does not reconnect or retry: who holds a stream decides that, by
//! [`ClientError::retry`]. Not here: keeping SVIDs ([`crate::ca::Svids`]).

use std::time::Duration;

use pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Map, Value};
use tonic::{
    Code, Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint as Tcp},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Endpoint;
use crate::{
    ca::istiod::said,
    identity::{
        BundleSet, PrivateKey, SpiffeId, SvidError, TrustBundle, TrustDomain, X509Svid, parse_leaf,
    },
    rpc::{
        self,
        workload::{
            JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse,
            ValidateJwtsvidRequest, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
            X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
        },
    },
};

/// The environment variable that names the endpoint (Workload Endpoint §4).
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// The longest message that is taken, bytes.
const MESSAGE: usize = 16 << 20;
/// How long a call that is no stream may take.
const CALL: Duration = Duration::from_secs(15);
/// As many SVIDs and trust domains as anybody needs.
const MOST: usize = 10_000;
/// As many certificates as a bundle may have.
const MOST_AUTHORITIES: usize = 1000;

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// What the server, or the connection to it, said.
    #[error("{}: {}", code_name(.0.code()), said(.0))]
    Status(Box<Status>),
    /// The server ended the stream without a reason.
    #[error("the server ended the stream")]
    Ended,
    /// The answer breaks a rule, and all of it is discarded (Workload API §4.5).
    #[error("the answer is not used: {0}")]
    Unusable(String),
    /// No answer in time.
    #[error("no answer in {0:?}")]
    Slow(Duration),
}

impl ClientError {
    /// Whether trying again, after a while, may help (Workload Endpoint §6).
    #[must_use]
    pub fn retry(&self) -> bool {
        match self {
            Self::Status(status) => {
                !matches!(status.code(), Code::InvalidArgument | Code::Unimplemented)
            }
            Self::Ended | Self::Slow(_) | Self::Unusable(_) => true,
        }
    }

    /// Whether the server says that the caller has no identity, or none any more: what was
    /// received must not be used further (Workload API §5.2.1).
    #[must_use]
    pub fn denied(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::PermissionDenied)
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// The name of a code as the specification writes it.
#[must_use]
pub fn code_name(code: Code) -> String {
    format!("{code:?}")
}

/// One SVID with what it is for.
#[derive(Debug)]
pub struct HintedSvid {
    /// The SVID.
    pub svid: X509Svid,
    /// May be empty.
    pub hint: String,
}

/// All that a workload may have of X.509.
#[derive(Debug)]
pub struct X509Context {
    /// At least one, the default one first.
    pub svids: Vec<HintedSvid>,
    /// By trust domain, the own and the federated ones; with the CRLs in the own.
    pub bundles: BundleSet,
}

/// One JWT-SVID.
#[derive(Clone, Debug)]
pub struct HintedToken {
    /// Whose.
    pub id: SpiffeId,
    /// JWS Compact.
    pub token: String,
    /// May be empty.
    pub hint: String,
}

/// Key sets by trust domain, as they came.
pub type KeySets = Vec<(TrustDomain, Vec<u8>)>;

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
pub(super) fn channel(endpoint: &Endpoint) -> Channel {
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
    pub(in crate::ca) fn of(stream: Streaming<M>) -> Self {
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
pub(in crate::ca) async fn in_time<M>(
    call: impl Future<Output = Result<tonic::Response<M>, Status>>,
) -> Result<M, ClientError> {
    let answer = tokio::time::timeout(CALL, call).await.map_err(|_| ClientError::Slow(CALL))?;
    Ok(answer?.into_inner())
}

/// The tokens of an answer: at least one, and of `id` only if that is given.
pub(in crate::ca) fn tokens(
    answer: JwtsvidResponse,
    id: Option<&SpiffeId>,
) -> Result<Vec<HintedToken>, ClientError> {
    let svids = answer.svids.into_iter().map(|svid| {
        let of = parse_id(&svid.spiffe_id)?;
        if svid.svid.is_empty() {
            return Err(unusable(format!("the token of {of} is empty")));
        }
        Ok(HintedToken { id: of, token: svid.svid, hint: svid.hint })
    });
    let svids: Vec<_> = svids.collect::<Result<_, ClientError>>()?;
    match id {
        _ if svids.is_empty() => Err(unusable("it has no JWT-SVID".into())),
        Some(id) if svids.iter().any(|svid| svid.id != *id) => {
            Err(unusable(format!("it has a JWT-SVID of another than {id}")))
        }
        _ => Ok(svids),
    }
}

fn x509_context(message: X509svidResponse) -> Result<X509Context, ClientError> {
    if message.svids.is_empty() {
        return Err(unusable("it has no SVID (Workload API §5.2.1)".into()));
    }
    if message.svids.len() > MOST {
        return Err(unusable(format!("it has {} SVIDs", message.svids.len())));
    }
    let mut bundles = bundle_set(message.federated_bundles)?;
    let mut svids = Vec::with_capacity(message.svids.len());
    for mut svid in message.svids {
        let key = PrivateKey::from_pkcs8(std::mem::take(&mut svid.x509_svid_key));
        let id = parse_id(&svid.spiffe_id)?;
        let about = |why: String| unusable(format!("{id}: {why}"));
        let chain = certificates(&svid.x509_svid, 8).map_err(about)?;
        let own = x509_svid(&id, chain, key).map_err(about)?;
        let authorities = certificates(&svid.bundle, MOST_AUTHORITIES).map_err(about)?;
        bundles.insert(TrustBundle::new(id.trust_domain().clone(), authorities));
        svids.push(HintedSvid { svid: own, hint: svid.hint });
    }
    add_crls(&mut bundles, message.crl);
    Ok(X509Context { svids, bundles })
}

fn x509_svid(
    id: &SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
) -> Result<X509Svid, String> {
    let leaf_der = chain.first().ok_or("it has no certificate")?;
    let leaf = parse_leaf(leaf_der).map_err(|e: SvidError| e.to_string())?;
    if leaf.id != *id {
        return Err(format!("its certificate is of {}", leaf.id));
    }
    if !key_matches(leaf_der, &key) {
        return Err("its key is no PKCS#8 key of its certificate".into());
    }
    let (not_before, not_after, serial) = (leaf.not_before, leaf.not_after, leaf.serial);
    Ok(X509Svid { id: leaf.id, chain, key, not_before, not_after, serial })
}

/// Whether `key` is the private key of the certificate.
pub(in crate::ca) fn key_matches(certificate: &CertificateDer<'_>, key: &PrivateKey) -> bool {
    use rcgen::PublicKeyData;
    let der = pki_types::PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8()));
    let (Ok(pair), Ok((_, certificate))) =
        (rcgen::KeyPair::try_from(&der), X509Certificate::from_der(certificate))
    else {
        return false;
    };
    certificate.public_key().subject_public_key.data.as_ref() == pair.der_bytes()
}

/// Concatenated DER, taken apart.
pub(super) fn certificates(
    mut der: &[u8],
    most: usize,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der)
            .map_err(|e| format!("certificate {} of the list is broken: {e}", all.len() + 1))?;
        if all.len() == most {
            return Err(format!("more than {most} certificates"));
        }
        all.push(CertificateDer::from(der[..der.len() - rest.len()].to_vec()));
        der = rest;
    }
    if all.is_empty() { Err("no certificate where one must be".into()) } else { Ok(all) }
}

fn bundle_set(
    bundles: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> Result<BundleSet, ClientError> {
    let bundle = |(key, der): (String, Vec<u8>)| {
        let domain = domain_of_key(&key)?;
        let authorities = certificates(&der, MOST_AUTHORITIES)
            .map_err(|why| unusable(format!("the bundle of {domain}: {why}")))?;
        Ok(TrustBundle::new(domain, authorities))
    };
    bundles.into_iter().map(bundle).collect()
}

/// CRLs come without the name of a trust domain: each goes to the bundles that have its issuer.
fn add_crls(bundles: &mut BundleSet, crls: Vec<Vec<u8>>) {
    use x509_parser::revocation_list::CertificateRevocationList;
    let of = |crl: &[u8], bundle: &TrustBundle| {
        let Ok((_, list)) = CertificateRevocationList::from_der(crl) else { return false };
        bundle.authorities.iter().any(|authority| {
            let issuer = X509Certificate::from_der(authority);
            issuer.is_ok_and(|(_, ca)| ca.subject().as_raw() == list.issuer().as_raw())
        })
    };
    let mut changed: Vec<TrustBundle> = bundles.iter().cloned().collect();
    for bundle in &mut changed {
        let own = crls.iter().filter(|crl| of(crl, bundle)).cloned();
        bundle.crls = own.map(Into::into).collect();
    }
    *bundles = changed.into_iter().collect();
}

/// The key of a map is the SPIFFE ID of a trust domain.
pub(super) fn domain_of_key(key: &str) -> Result<TrustDomain, ClientError> {
    let id = parse_id(key)?;
    if id.path().is_empty() {
        return Ok(id.trust_domain().clone());
    }
    Err(unusable(format!("{id} is no trust domain")))
}

fn parse_id(text: &str) -> Result<SpiffeId, ClientError> {
    text.parse().map_err(|e| unusable(format!("{text:?}: {e}")))
}

fn unusable(why: String) -> ClientError {
    ClientError::Unusable(why)
}

fn json(value: prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(bool)) => bool.into(),
        // Whole numbers, such as times, as such.
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 9e15 => (n as i64).into(),
        Some(Kind::NumberValue(n)) => n.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect(),
        Some(Kind::StructValue(map)) => {
            Value::Object(map.fields.into_iter().map(|(k, v)| (k, json(v))).collect())
        }
    }
}
