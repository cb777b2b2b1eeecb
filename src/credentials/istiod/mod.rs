//! SVIDs from istiod, or whoever speaks its CA API (`adit ca serve` does): one
//! `CreateCertificate` per SVID, with a service-account token.
//!
//! A call that fails concerns one identity: nothing of it is kept for others, and the next call
//! finds a new connection. Not here: when to ask again ([`super::rotation`]).

mod answer;
mod authority_probe;
mod bans;
mod channel;
mod config;
mod credentials;
mod joined;
mod queue;
mod refused;
mod request;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::future::{BoxFuture, FutureExt};
use rcgen::{KeyPair, PublicKeyData};
use tokio::{sync::watch, time::timeout};
use tonic::{Code, Request, Status, transport::Channel};

pub use self::config::IstiodConfig;
use self::{
    channel::connect,
    refused::CertificateRefused,
    request::{csr, message},
    status::{is_broken, new_join_token, said_to, wants_join_token},
};
use super::{AuthToken, Source, SourceError, Urgency, Wanted, grpc_status::said};
use crate::{
    identity::{BundleSet, PrivateKey, SpiffeId, TrustBundle, X509Svid},
    rpc::istio_ca::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_client::IstioCertificateServiceClient,
    },
};

/// How long one call may take, connecting included.
const CALL: Duration = Duration::from_secs(10);
/// The longest answer.
const LONGEST: usize = 1 << 20;

/// What a host that joined hears first once its SVID does not serve any more, nor its token.
const SVID_REFUSED: &str = "the CA refuses this host's SVID (revoked or expired)";

/// The source.
pub struct Istiod {
    config: IstiodConfig,
    queue: queue::Queue,
    joined: Arc<joined::JoinedSvids>,
    probe: authority_probe::AuthorityProbe,
    channel: Mutex<SharedChannel>,
    bundles: watch::Sender<Arc<BundleSet>>,
    bans: bans::Bans,
}

/// The connection that calls share.
struct SharedChannel {
    channel: Channel,
    generation: u64,
    /// It has answered: if it fails now, the server may have come back on another.
    proven: bool,
}

impl std::fmt::Debug for Istiod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Istiod({})", self.config.server.address)
    }
}

impl Istiod {
    /// Connects at the first call. Needs a running runtime.
    #[must_use]
    pub fn new(config: IstiodConfig) -> Self {
        let channel = Mutex::new(SharedChannel {
            channel: connect(&config, None).0,
            generation: 0,
            proven: false,
        });
        let (bundles, first) = watch::channel(Arc::default());
        let joined = Arc::default();
        let bans = bans::Bans::follow(&config, &joined, first);
        let (queue, probe) = (queue::Queue::default(), authority_probe::AuthorityProbe::new());
        Self { config, queue, joined, probe, channel, bundles, bans }
    }

    fn name(&self) -> String {
        format!("istiod at {}", self.config.server.address)
    }

    fn unavailable(&self, why: impl ToString) -> SourceError {
        SourceError::Unavailable { source_name: self.name(), why: why.to_string() }
    }

    fn unusable(&self, id: &SpiffeId, why: impl ToString) -> SourceError {
        let why = why.to_string();
        SourceError::Unusable { source_name: self.name(), id: id.clone(), why }
    }

    async fn ask(&self, wanted: &Wanted, urgency: Urgency) -> Result<X509Svid, SourceError> {
        let id = &wanted.id;
        let _turn = self.queue.turn(&wanted.uid, urgency).await;
        let key = KeyPair::generate().map_err(|e| self.unusable(id, e))?;
        let csr = csr(id, &key).map_err(|e| self.unusable(id, e))?;
        let joins = self.joined.of(wanted).is_some() || self.shows_join_token();
        let answer = self.call(wanted, message(id, csr, self.config.svid_lifetime)).await?;
        let spki = key.subject_public_key_info();
        let key_usage = self.config.key_usage;
        let answer = answer::check(&answer.cert_chain, id, &spki, key_usage, SystemTime::now())
            .map_err(|e| self.unusable(id, e))?;
        self.bundles.send_if_modified(|bundles| self.believe(answer.bundle, bundles));
        let key = PrivateKey::from_pkcs8(key.serialize_der());
        let svid = X509Svid::of(answer.leaf, answer.chain, key);
        if joins {
            self.joined.keep(wanted, &svid);
        }
        self.bans.issued(id);
        Ok(svid)
    }

    /// Takes a bundle, for each other name of its trust domain too; whether it says anything new.
    fn believe(&self, bundle: TrustBundle, known: &mut Arc<BundleSet>) -> bool {
        let others = self.config.aliases.iter().filter(|alias| **alias != bundle.trust_domain);
        let others =
            others.map(|alias| TrustBundle { trust_domain: alias.clone(), ..bundle.clone() });
        let all: Vec<_> = others.chain([bundle.clone()]).collect();
        let new = |bundle: &TrustBundle| known.get(&bundle.trust_domain) != Some(bundle);
        let new: Vec<_> = all.into_iter().filter(new).collect();
        let some = !new.is_empty();
        if some {
            let known = Arc::make_mut(known);
            new.into_iter().for_each(|bundle| known.insert(bundle));
        }
        some
    }

    /// Why `wanted` gets no SVID before it has another join token, and how to make one.
    fn wants_new_token(&self, wanted: &Wanted, is_svid_refused: bool, why: &str) -> String {
        let token = self.config.server.token.as_ref();
        let cure = new_join_token(&wanted.id, token.and_then(AuthToken::file));
        match is_svid_refused {
            true => format!("{SVID_REFUSED}: {why}; {cure}"),
            false => format!("{why}; {cure}"),
        }
    }

    fn shows_join_token(&self) -> bool {
        let bearer = self.config.server.bearer();
        bearer.is_ok_and(|b| b.is_some_and(|b| credentials::is_join_token(&b)))
    }

    async fn call(
        &self,
        wanted: &Wanted,
        message: IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, SourceError> {
        let answer = timeout(CALL, async {
            let own = self.joined.of(wanted);
            let (generation, proven, answer) = self.call_once(wanted, message.clone()).await?;
            match answer {
                // Refused with the SVID that it had: the token counts again.
                Err(_) if own.is_some() && self.joined.is_refused(wanted) => {
                    self.call_once(wanted, message).await
                }
                // Broken since it last answered: that says nothing of the server now.
                Err(status) if proven && is_broken(&status) => {
                    self.reconnect(generation);
                    self.call_once(wanted, message).await
                }
                answer => Ok((generation, proven, answer)),
            }
        });
        let (generation, status) = match answer.await {
            Ok(Ok((generation, _, Ok(answer)))) => {
                self.prove(generation);
                return Ok(answer);
            }
            Ok(Ok((generation, _, Err(status)))) => {
                if !is_broken(&status) {
                    self.prove(generation); // a refusal is an answer
                }
                (generation, status)
            }
            Ok(Err(own)) => return Err(own),
            Err(_) => {
                let late = Status::deadline_exceeded("no answer within 10 s");
                (self.shared().generation, late)
            }
        };
        if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown) {
            self.reconnect(generation);
        }
        if bans::named(&status).as_ref() == Some(&wanted.id) {
            self.bans.refused(&wanted.id);
            let (source_name, id) = (self.name(), wanted.id.clone());
            return Err(SourceError::Banned { source_name, id });
        }
        let joins = self.joined.of(wanted).is_some();
        let waits = self.joined.is_refused(wanted);
        if status.code() == Code::Unauthenticated && !waits {
            self.joined.forget(wanted);
        }
        Err(match status.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unimplemented => SourceError::Refused {
                source_name: self.name(),
                id: wanted.id.clone(),
                why: match waits || wants_join_token(&status) {
                    true => {
                        let why = said(&status);
                        self.wants_new_token(wanted, waits, &why)
                    }
                    false => said_to(&status, joins),
                },
            },
            _ => self.unavailable(said(&status)),
        })
    }

    /// On which connection, whether that one had answered before, and what came.
    #[allow(clippy::type_complexity, reason = "told in one place")]
    async fn call_once(
        &self,
        wanted: &Wanted,
        message: IstioCertificateRequest,
    ) -> Result<(u64, bool, Result<IstioCertificateResponse, Status>), SourceError> {
        let mut request = Request::new(message);
        let headers = request.metadata_mut();
        let own = self.joined.of(wanted);
        if own.is_none() {
            let bearer = self.config.server.bearer();
            let bearer = bearer.map_err(|e| match self.joined.is_refused(wanted) {
                true => self.unavailable(self.wants_new_token(wanted, true, &e)),
                false => self.unavailable(e),
            });
            bearer?.map(|bearer| headers.insert("authorization", bearer));
        }
        self.config.server.add_headers(headers).map_err(|e| self.unavailable(e))?;
        let (channel, generation, proven) = {
            let shared = self.shared();
            (shared.channel.clone(), shared.generation, shared.proven)
        };
        let (channel, refused) = match own.clone() {
            Some(own) => connect(&self.config, Some(own)),
            None => (channel, CertificateRefused::default()),
        };
        let mut client =
            IstioCertificateServiceClient::new(channel).max_decoding_message_size(LONGEST);
        let answer = client.create_certificate(request).await;
        if let Some(own) = own.filter(|_| answer.is_err() && refused.seen()) {
            self.joined.refused(&own);
        }
        Ok((generation, proven, answer.map(tonic::Response::into_inner)))
    }

    fn shared(&self) -> MutexGuard<'_, SharedChannel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prove(&self, generation: u64) {
        let mut shared = self.shared();
        shared.proven |= shared.generation == generation;
    }

    /// The calls under way keep theirs; the next ones get a new connection.
    fn reconnect(&self, failed: u64) {
        let mut shared = self.shared();
        if shared.generation == failed {
            let (channel, _) = connect(&self.config, None);
            *shared = SharedChannel { channel, generation: failed + 1, proven: false };
        }
    }
}

impl Source for Istiod {
    fn kind(&self) -> &'static str {
        "istiod"
    }

    fn bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.bundles.subscribe()
    }

    fn banned(&self) -> Option<watch::Receiver<Arc<BTreeSet<SpiffeId>>>> {
        Some(self.bans.banned())
    }

    fn fetch<'a>(
        &'a self,
        wanted: &'a Wanted,
        urgency: Urgency,
    ) -> BoxFuture<'a, Result<X509Svid, SourceError>> {
        let asked = self.ask(wanted, urgency);
        asked
            .inspect(|answer| match answer {
                Ok(_) => self.probe.heard(&wanted.uid),
                Err(_) => self.probe.no_more(&wanted.uid),
            })
            .boxed()
    }

    fn urge(&self, uid: &str) {
        self.queue.urge(uid);
    }

    fn forget(&self, uid: &str) {
        self.joined.gone(uid);
        self.probe.no_more(uid);
    }

    fn changed<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, ()> {
        self.probe.overdue(&wanted.uid).boxed()
    }
}
