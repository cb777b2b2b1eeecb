//! The calls of the Workload API. Who may call at all was decided before ([`super::gate`]).

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::Stream;
use serde_json::{Map, Value};
use tonic::{Request, Response, Status};

use super::{
    attest::CallingProcess,
    feed::{EntitlementWatcher, Message, feed},
    limits::UsagePlace,
    shared::Shared,
};
use crate::{
    credentials::SourceError,
    identity::{SpiffeId, validate_jwt_svid},
    rpc::workload::{
        JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
        ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
        X509svidRequest, X509svidResponse, spiffe_workload_api_server::SpiffeWorkloadApi,
    },
};

/// How long tokens may take.
const FETCH: Duration = Duration::from_secs(10);
/// As many audiences as anybody needs.
const AUDIENCES: usize = 64;
/// As long as an audience may be, bytes.
const AUDIENCE: usize = 2048;

/// The service of one server.
pub(super) struct Service(pub(super) Arc<Shared>);

type Feed<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send + 'static>>;

impl Service {
    fn watcher<R>(&self, request: &Request<R>) -> Result<EntitlementWatcher, Status> {
        let extensions = request.extensions();
        let caller = extensions.get::<Arc<CallingProcess>>().cloned();
        let place = extensions.get::<Arc<UsagePlace>>().cloned();
        let (caller, place) =
            caller.zip(place).ok_or_else(|| Status::internal("the caller was not attested"))?;
        Ok(EntitlementWatcher::new(&self.0, caller, place))
    }

    async fn feed<R, M: Message>(&self, request: &Request<R>) -> Result<Response<Feed<M>>, Status> {
        let messages = feed(self.watcher(request)?).await?;
        Ok(Response::new(Box::pin(messages)))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Feed<X509svidResponse>;
    type FetchX509BundlesStream = Feed<X509BundlesResponse>;
    type FetchJWTBundlesStream = Feed<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Feed<X509svidResponse>>, Status> {
        self.feed(&request).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Feed<X509BundlesResponse>>, Status> {
        self.feed(&request).await
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Feed<JwtBundlesResponse>>, Status> {
        self.feed(&request).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let mut watcher = self.watcher(&request)?;
        let JwtsvidRequest { audience, spiffe_id } = request.into_inner();
        check_audiences(&audience)?;
        let wanted = match &*spiffe_id {
            "" => None,
            text => Some(text.parse::<SpiffeId>().map_err(|e| bad(format!("spiffe_id: {e}")))?),
        };
        let mut entitled = watcher.entitled()?;
        if let Some(wanted) = &wanted {
            entitled.retain(|given| given.id == *wanted);
            if entitled.is_empty() {
                let why = format!("this process has no identity {wanted}");
                return Err(Status::permission_denied(why));
            }
        }
        let fetch = async {
            let mut svids = Vec::with_capacity(entitled.len());
            for given in entitled {
                let token = self.0.svids.fetch_jwt(&given.held_as, &audience).await;
                let (spiffe_id, hint) = (given.id.to_string(), given.hint.to_string());
                svids.push(Jwtsvid { spiffe_id, svid: token.map_err(|e| status(&e))?, hint });
            }
            Ok(Response::new(JwtsvidResponse { svids }))
        };
        let slow = |_| Status::unavailable(format!("the JWT-SVID was not issued within {FETCH:?}"));
        tokio::time::timeout(FETCH, fetch).await.map_err(slow)?
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let mut watcher = self.watcher(&request)?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        check_audiences(std::slice::from_ref(&audience))?;
        if svid.is_empty() {
            return Err(bad("svid is missing".into()));
        }
        watcher.entitled()?;
        let bundles = self.0.svids.bundles();
        let token = validate_jwt_svid(&svid, &audience, &bundles, SystemTime::now())
            .map_err(|e| bad(format!("svid: {e}")))?;
        // Tokens outlive a ban; here they do not count any more.
        if self.0.svids.watch_banned().is_some_and(|banned| banned.borrow().contains(&token.id)) {
            return Err(bad(format!("svid: {} is banned", token.id)));
        }
        let own = *token.id.trust_domain() == self.0.trust_domain;
        let audiences = token.audiences.into_iter().map(Value::String).collect();
        let mut claims: Map<String, Value> = token.claims.into_iter().collect();
        // Text or list on the way here, a list for everybody from here on.
        claims.insert("aud".into(), Value::Array(audiences));
        // What another trust domain says beyond the standard means what it means there.
        claims.retain(|name, _| own || matches!(&**name, "sub" | "aud" | "exp"));
        let claims = prost_types::Struct {
            fields: claims.into_iter().map(|(name, value)| (name, protobuf(value))).collect(),
        };
        let spiffe_id = token.id.to_string();
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id, claims: Some(claims) }))
    }
}

fn bad(why: String) -> Status {
    Status::invalid_argument(why)
}

fn check_audiences(audiences: &[String]) -> Result<(), Status> {
    if audiences.is_empty() || audiences.iter().any(String::is_empty) {
        return Err(bad("audience is missing (Workload API §6.2)".into()));
    }
    if audiences.len() > AUDIENCES || audiences.iter().any(|a| a.len() > AUDIENCE) {
        return Err(bad(format!("at most {AUDIENCES} audiences of {AUDIENCE} bytes")));
    }
    Ok(())
}

fn status(error: &SourceError) -> Status {
    match error {
        SourceError::NoJwt(_) => Status::unimplemented(error.to_string()),
        SourceError::Refused { .. } => Status::permission_denied(error.to_string()),
        banned if banned.is_ban() => Status::permission_denied(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}

fn protobuf(value: Value) -> prost_types::Value {
    use prost_types::{ListValue, Struct, value::Kind};
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(bool) => Kind::BoolValue(bool),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(list) => {
            Kind::ListValue(ListValue { values: list.into_iter().map(protobuf).collect() })
        }
        Value::Object(map) => Kind::StructValue(Struct {
            fields: map.into_iter().map(|(name, value)| (name, protobuf(value))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
