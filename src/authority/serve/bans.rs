//! Who is banned, told to nodes: at once and after each change, so that they close what is open to
//! the banned as soon as those do that have the CA's directory.

use std::{collections::BTreeSet, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::{Request, Response, Status, async_trait};

use super::{
    Attestors, CONNECTION_AGE, CaClient, CaRefusal, ServerConfig, authorize::AuthenticatedCaller,
    service::CaService,
};
use crate::{
    authority::CaError,
    identity::{BundleSet, SpiffeId},
    lifecycle::{Place, Places, source},
    rpc::bans::{Banned, WatchRequest, bans_server::Bans},
};

/// How many are told at a time, how many of one caller, however it proves who it is, and how many
/// of that from one address. The newest gets in: another of its own goes for it, the oldest, and
/// asks again. So a stolen SVID keeps nobody from being told.
const WATCHERS: usize = 4096;
const OF_ONE: usize = 64;
const OF_ONE_ADDRESS: usize = 16;
/// One begins with all that are banned: it costs as much as so many other calls, so a caller
/// begins one every half second from one address, and 40 at once.
const COST: f64 = 50.0;
/// How often a watcher shows that its connection is in use.
const USED: Duration = Duration::from_secs(60);

/// The service.
pub(super) struct BansService {
    ca: Arc<CaService>,
    callers: Places<String>,
    addresses: Places<(String, IpAddr)>,
}

impl BansService {
    pub(super) fn new(ca: Arc<CaService>) -> Self {
        let callers = Places::new(WATCHERS, OF_ONE);
        Self { ca, callers, addresses: Places::new(usize::MAX, OF_ONE_ADDRESS) }
    }

    /// Begins to tell; nothing is waited for. `attestors` are those that `caller` was judged by.
    fn tell(
        &self,
        caller: AuthenticatedCaller,
        attestors: Attestors,
        peer: CaClient,
    ) -> Result<BanWatcher, Status> {
        let (of, from) = (caller.one(), source(peer.addr.ip()));
        let (banned, bundles, configs) = (self.ca.banned(), self.ca.bundles(), self.ca.configs());
        let until = Instant::now() + CONNECTION_AGE;
        if !self.ca.may_watch(&format!("{of} from {from}"), COST) {
            return Err(CaRefusal::RateLimited.status());
        }
        // Nobody proves its place: the oldest can always be asked to go.
        let full = || Status::resource_exhausted("too many watchers");
        let address = self.addresses.take((of.clone(), from)).ok_or_else(full)?;
        let place = self.callers.take(of).ok_or_else(full)?;
        let ca = Arc::clone(&self.ca);
        let told = false;
        let watcher = BanWatcher {
            ca,
            caller,
            attestors,
            peer,
            banned,
            bundles,
            configs,
            place,
            address,
            told,
            until,
        };
        watcher.judge().map_err(|refusal| refusal.status())?;
        Ok(watcher)
    }
}

/// One that is told.
struct BanWatcher {
    ca: Arc<CaService>,
    caller: AuthenticatedCaller,
    /// What its proof was judged by.
    attestors: Attestors,
    peer: CaClient,
    banned: watch::Receiver<Arc<BTreeSet<SpiffeId>>>,
    bundles: watch::Receiver<Arc<BundleSet>>,
    configs: watch::Receiver<Arc<ServerConfig>>,
    place: Place<String>,
    address: Place<(String, IpAddr)>,
    told: bool,
    /// It has to prove again who it is after this.
    until: Instant,
}

impl BanWatcher {
    /// Whether this caller may still read the bans: it must not be banned, and the SVID that it
    /// showed must still be valid. A node proxy's account goes on reading even if it is banned: the
    /// pods of its node depend on the list.
    fn judge(&self) -> Result<(), CaRefusal> {
        let banned = |id: &SpiffeId| match self.banned.borrow().contains(id) {
            true => Err(CaError::Banned(id.clone()).into()),
            false => Ok(()),
        };
        match &self.caller {
            AuthenticatedCaller::Joined(id) => banned(id),
            AuthenticatedCaller::Svid(id) => {
                banned(id).and_then(|()| self.ca.by_svid(&self.peer).map(drop))
            }
            AuthenticatedCaller::Pod(pod) => {
                let rules = &self.configs.borrow().rules;
                let account = (pod.namespace.clone(), pod.service_account.clone());
                match rules.trusted_node_accounts.contains(&account) {
                    true => Ok(()),
                    false => {
                        let id = rules.id_of(pod).map_err(|e| CaRefusal::Wanted(e.to_string()))?;
                        banned(&id)
                    }
                }
            }
        }
    }

    /// Whether what proved who it is would be judged otherwise by now.
    fn is_judged_otherwise(&self) -> bool {
        let now = &self.configs.borrow().attestors;
        match &self.caller {
            AuthenticatedCaller::Pod(_) => now.kubernetes != self.attestors.kubernetes,
            AuthenticatedCaller::Joined(_) => now.join != self.attestors.join,
            AuthenticatedCaller::Svid(_) => false, // at each step
        }
    }

    /// The next message, and who hears the one after it; `None` at the end.
    async fn next(mut self) -> Option<(Result<Banned, Status>, Option<Self>)> {
        while self.told {
            self.peer.stay.asked();
            let now = Instant::now();
            // The end: it asks again, with a proof of who it is.
            if now >= self.until || self.is_judged_otherwise() {
                return None;
            }
            let newer = || Status::aborted("replaced by a newer watcher; ask again");
            tokio::select! {
                () = self.place.given_up() => return Some((Err(newer()), None)),
                () = self.address.given_up() => return Some((Err(newer()), None)),
                () = sleep_until(self.until.min(now + USED)) => {}
                changed = self.banned.changed() => {
                    changed.ok()?;
                    self.told = false;
                }
                changed = self.bundles.changed() => changed.ok()?,
                changed = self.configs.changed() => changed.ok()?,
            }
            if let Err(refusal) = self.judge() {
                return Some((Err(refusal.status()), None));
            }
        }
        self.told = true;
        let ids = self.banned.borrow_and_update().iter().map(ToString::to_string).collect();
        Some((Ok(Banned { ids }), Some(self)))
    }
}

#[async_trait]
impl Bans for BansService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Banned, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let peer = request.extensions().get::<CaClient>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("a connection without an address"))?;
        let attestors = self.ca.configs().borrow().attestors.clone();
        let asked = self.ca.who(&request, &peer).await;
        let (_turn, caller, _) = asked.map_err(|refusal| {
            let (reason, why) = (refusal.reason(), refusal.to_string());
            tracing::debug!(target: "ca", peer = %peer.addr.ip(), reason, why, "bans not sent");
            refusal.status()
        })?;
        let watcher = self.tell(caller, attestors, peer)?;
        let told = stream::unfold(Some(watcher), async |watcher| watcher?.next().await);
        Ok(Response::new(Box::pin(told)))
    }
}
