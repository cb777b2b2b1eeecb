//! One call: who is it, what does it want, may it, and is the key good; then it is certified.
//! One log line and one count each.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use pki_types::{CertificateDer, UnixTime};
use prost_types::value::Kind;
use rcgen::SubjectPublicKeyInfo;
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::timeout,
};
use tonic::{Request, Response, Status, async_trait};

use super::{
    CaClient, CaRefusal, Metrics, Pods, ServerConfig,
    authorize::{AuthenticatedCaller, authorize},
    csr, join,
    keys::TokenKeys,
    rate::Buckets,
    token,
};
use crate::{
    authority::{CaError, EmbeddedCa},
    credentials::Source,
    identity::{BundleSet, Purpose, SpiffeId, SvidError, armour, parse_leaf, verify_svid},
    rpc::istio_ca::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::IstioCertificateService,
    },
};

/// How many calls are worked on at once, and how long others wait for their turn.
const AT_ONCE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);
/// The shortest lifetime that is issued.
const SHORTEST: Duration = Duration::from_secs(10);

/// The CA behind the API.
pub(super) struct CaService {
    ca: Arc<EmbeddedCa>,
    configs: watch::Receiver<Arc<ServerConfig>>,
    pods: Pods,
    /// Who signs tokens: no other configuration names others.
    keys: Option<TokenKeys>,
    metrics: Arc<Metrics>,
    rates: Mutex<Buckets>,
    turns: Semaphore,
}

/// What a call has come to so far, for its log line.
#[derive(Default)]
struct CallTrace {
    caller: Option<AuthenticatedCaller>,
    wanted: Option<SpiffeId>,
}

/// What was issued.
struct IssuedCertificate {
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
}

impl CaService {
    /// With what `configs` says at each call.
    pub(super) fn new(
        ca: Arc<EmbeddedCa>,
        configs: watch::Receiver<Arc<ServerConfig>>,
        pods: Pods,
        metrics: Arc<Metrics>,
    ) -> Self {
        let keys = configs.borrow().attestors.kubernetes.as_ref().and_then(|k| k.keys.clone());
        let (keys, rates, turns) =
            (keys.map(TokenKeys::new), Mutex::default(), Semaphore::new(AT_ONCE));
        Self { ca, configs, pods, keys, metrics, rates, turns }
    }

    /// What the file says now.
    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.configs.borrow())
    }

    async fn answer(
        &self,
        request: Request<IstioCertificateRequest>,
        peer: &CaClient,
        trace: &mut CallTrace,
    ) -> Result<IssuedCertificate, CaRefusal> {
        let (_turn, caller, join) = self.who(&request, peer).await?;
        trace.caller = Some(caller.clone());
        if !self.rates().take(&caller.to_string(), Instant::now()) {
            return Err(CaRefusal::RateLimited);
        }
        let request = request.into_inner();
        let wanted = self.wanted(&caller, &request)?;
        trace.wanted = Some(wanted.clone());
        let config = self.config();
        authorize(&caller, &wanted, &config.rules, &self.pods.load())?;
        let key = csr::check(&request.csr, &wanted)?;
        if self.ca.banned().borrow().contains(&wanted) {
            return Err(CaError::Banned(wanted).into());
        }
        // Last of all, so that nothing but the CA itself can fail once the token is used up.
        if let Some(valid) = &join {
            let taken_away = CaRefusal::NoCredentials("join tokens are not accepted");
            config.attestors.join.as_ref().ok_or(taken_away)?.consume(valid)?;
        }
        self.sign(&wanted, &key, request.validity_duration, config.svid_lifetime)
    }

    /// Who calls, within the limits of its address; the permit is its turn.
    pub(super) async fn who<T>(
        &self,
        request: &Request<T>,
        peer: &CaClient,
    ) -> Result<(SemaphorePermit<'_>, AuthenticatedCaller, Option<join::Valid>), CaRefusal> {
        peer.stay.asked();
        let from = format!("from {}", peer.addr.ip());
        if self.rates().is_empty(&from, Instant::now()) {
            return Err(CaRefusal::RateLimited);
        }
        let turn = timeout(PATIENCE, self.turns.acquire()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or(CaRefusal::Busy)?;
        let authenticated = self.authenticate(request, peer).await;
        let (caller, join) = authenticated.inspect_err(|_| {
            self.rates().take(&from, Instant::now());
        })?;
        peer.stay.proven();
        Ok((turn, caller, join))
    }

    /// Whether this caller may begin another stream of bans, which costs so much; charged to it.
    pub(super) fn may_watch(&self, caller: &str, cost: f64) -> bool {
        self.rates().take_many(&format!("bans to {caller}"), cost, Instant::now())
    }

    /// What the file says, now and after each change.
    pub(super) fn configs(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.configs.clone()
    }

    /// The CA's bundle, which has what is revoked as well.
    pub(super) fn bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.ca.bundles()
    }

    /// Who is banned, now and after each change.
    pub(super) fn banned(&self) -> watch::Receiver<Arc<BTreeSet<SpiffeId>>> {
        self.ca.banned()
    }

    async fn authenticate<T>(
        &self,
        request: &Request<T>,
        peer: &CaClient,
    ) -> Result<(AuthenticatedCaller, Option<join::Valid>), CaRefusal> {
        let header = request.metadata().get("authorization");
        let Some(header) = header else { return Ok((self.by_svid(peer)?, None)) };
        let bearer = header.to_str().ok().and_then(|h| {
            let (scheme, token) = h.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let config = self.config();
        let attestors = &config.attestors;
        let token =
            bearer.ok_or(CaRefusal::NoCredentials("authorization is not a Bearer token"))?;
        if token.starts_with(join::PREFIX) {
            let none = CaRefusal::NoCredentials("join tokens are not accepted here");
            let valid = attestors.join.as_ref().ok_or(none)?.look_up(token, SystemTime::now())?;
            return Ok((AuthenticatedCaller::Joined(valid.id.clone()), Some(valid)));
        }
        let none = CaRefusal::NoCredentials("service-account tokens are not accepted here");
        let kubernetes = attestors.kubernetes.as_ref().ok_or(none)?;
        let pod = if let Some(review) = &kubernetes.review {
            if token.len() > token::LONGEST {
                return Err(
                    token::TokenError::Malformed("the token is longer than 16 KiB".into()).into()
                );
            }
            review.judge(token, &kubernetes.expected.audience).await?
        } else {
            let (header, kid) = token::header(token)?;
            let keys =
                self.keys.as_ref().ok_or(CaRefusal::NoCredentials("no JWKS is configured"))?;
            let claims = token::claims(token, &header, &keys.find(&kid).await?)?;
            token::judge(&claims, &kubernetes.expected, SystemTime::now())?
        };
        Ok((AuthenticatedCaller::Pod(pod), None))
    }

    /// A connection may outlive the SVID that it was made with: it is judged at each call.
    pub(super) fn by_svid(&self, peer: &CaClient) -> Result<AuthenticatedCaller, CaRefusal> {
        let taken = self.config().attestors.svid;
        let none = CaRefusal::NoCredentials(match taken {
            true => "neither a token nor an SVID",
            false => {
                "no token, and SVIDs are accepted only with `attestors: { svid: true }` in its file"
            }
        });
        let chain = peer.chain.as_ref().filter(|_| taken).ok_or(none)?;
        let bundles = self.ca.bundles().borrow().clone();
        match verify_svid(chain, &bundles, UnixTime::now(), Purpose::Client) {
            Ok(id) => Ok(AuthenticatedCaller::Svid(id)),
            // A ban revokes what there was.
            Err(SvidError::Revoked { id, .. }) if self.ca.banned().borrow().contains(&id) => {
                Err(CaError::Banned(id).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What `ImpersonatedIdentity` says, or else the caller's own.
    fn wanted(
        &self,
        caller: &AuthenticatedCaller,
        request: &IstioCertificateRequest,
    ) -> Result<SpiffeId, CaRefusal> {
        let fields = request.metadata.as_ref().map(|m| &m.fields);
        let named = fields.and_then(|f| f.get("ImpersonatedIdentity"));
        match named.map(|value| value.kind.as_ref()) {
            Some(Some(Kind::StringValue(id))) => {
                id.parse().map_err(|e| CaRefusal::Wanted(format!("{e}")))
            }
            Some(_) => Err(CaRefusal::Wanted("is not text".into())),
            None => match caller {
                AuthenticatedCaller::Joined(id) | AuthenticatedCaller::Svid(id) => Ok(id.clone()),
                AuthenticatedCaller::Pod(pod) => {
                    let id = self.config().rules.id_of(pod);
                    id.map_err(|e| CaRefusal::Wanted(e.to_string()))
                }
            },
        }
    }

    fn sign(
        &self,
        wanted: &SpiffeId,
        key: &SubjectPublicKeyInfo,
        seconds: i64,
        longest: Duration,
    ) -> Result<IssuedCertificate, CaRefusal> {
        let asked = u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs);
        let lifetime = asked.unwrap_or(longest).max(SHORTEST).min(longest);
        let chain = self.ca.sign(wanted, key, lifetime)?;
        let bundles = self.ca.bundles().borrow().clone();
        let bundle = bundles.get(wanted.trust_domain());
        let roots = bundle.map(|b| b.authorities.clone()).unwrap_or_default();
        Ok(IssuedCertificate { chain, roots })
    }

    fn rates(&self) -> std::sync::MutexGuard<'_, Buckets> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(
        &self,
        outcome: &Result<IssuedCertificate, CaRefusal>,
        trace: &CallTrace,
        peer: IpAddr,
    ) {
        let caller = trace.caller.as_ref().map_or_else(|| "?".into(), ToString::to_string);
        let wanted = trace.wanted.as_ref().map_or("?", SpiffeId::as_str);
        match outcome {
            Ok(issued) => {
                self.metrics.issued.inc();
                let serial = issued.chain.first().and_then(|leaf| parse_leaf(leaf).ok());
                let serial = serial.map(|leaf| leaf.serial).unwrap_or_default();
                tracing::info!(target: "ca", %peer, caller, wanted, serial, "SVID issued");
            }
            Err(refusal) => {
                let reason = refusal.reason();
                self.metrics.refused.with_label_values(&[reason]).inc();
                tracing::warn!(
                    target: "ca", %peer, caller, wanted, reason, why = %refusal,
                    "request refused"
                );
            }
        }
    }
}

#[async_trait]
impl IstioCertificateService for CaService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let peer = request.extensions().get::<CaClient>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("a connection without an address"))?;
        let mut trace = CallTrace::default();
        let outcome = self.answer(request, &peer, &mut trace).await;
        self.record(&outcome, &trace, peer.addr.ip());
        match outcome {
            Ok(issued) => {
                let mut cert_chain: Vec<String> = issued.chain.iter().map(pem).collect();
                cert_chain.push(issued.roots.iter().map(pem).collect());
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(refusal) => Err(refusal.status()),
        }
    }
}

fn pem(der: &CertificateDer<'_>) -> String {
    armour("CERTIFICATE", der)
}

#[cfg(test)]
mod tests;
