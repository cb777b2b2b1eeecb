//! Who is banned, told to nodes: at once and after each change, so that they close what is open to
//! the banned as soon as those do that have the CA's directory.

use std::{collections::BTreeSet, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::{Request, Response, Status, async_trait};

use super::{CONNECTION_AGE, Peer, Refusal, authorize::Caller, service::CaService};
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

    /// Begins to tell; nothing is waited for.
    fn tell(&self, caller: Caller, peer: Peer) -> Result<Watcher, Status> {
        let (of, from) = (caller.one(), source(peer.addr.ip()));
        let (banned, bundles) = (self.ca.banned(), self.ca.bundles());
        let until = Instant::now() + CONNECTION_AGE;
        if !self.ca.may_watch(&format!("{of} from {from}"), COST) {
            return Err(Refusal::RateLimited.status());
        }
        // Nobody proves its place: the oldest can always be asked to go.
        let full = || Status::resource_exhausted("too many watchers");
        let address = self.addresses.take((of.clone(), from)).ok_or_else(full)?;
        let place = self.callers.take(of).ok_or_else(full)?;
        let ca = Arc::clone(&self.ca);
        let told = false;
        let watcher = Watcher { ca, caller, peer, banned, bundles, place, address, told, until };
        watcher.judge().map_err(|refusal| refusal.status())?;
        Ok(watcher)
    }
}

/// One that is told.
struct Watcher {
    ca: Arc<CaService>,
    caller: Caller,
    peer: Peer,
    banned: watch::Receiver<Arc<BTreeSet<SpiffeId>>>,
    bundles: watch::Receiver<Arc<BundleSet>>,
    place: Place<String>,
    address: Place<(String, IpAddr)>,
    told: bool,
    /// It proves anew who it is after this.
    until: Instant,
}

impl Watcher {
    /// Whether it may be told still: not who is banned, nor by an SVID that is not valid now. A
    /// pod's token is its cluster's, and bans do not concern it.
    fn judge(&self) -> Result<(), Refusal> {
        match &self.caller {
            Caller::Joined(id) | Caller::Svid(id) if self.banned.borrow().contains(id) => {
                Err(CaError::Banned(id.clone()).into())
            }
            Caller::Svid(_) => self.ca.by_svid(&self.peer).map(drop),
            Caller::Joined(_) | Caller::Pod(_) => Ok(()),
        }
    }

    /// The next message, and who hears the one after it; `None` at the end.
    async fn next(mut self) -> Option<(Result<Banned, Status>, Option<Self>)> {
        while self.told {
            self.peer.stay.asked();
            let now = Instant::now();
            if now >= self.until {
                return None;
            }
            let newer = || Status::aborted("a newer watcher has the place of this one; ask again");
            tokio::select! {
                () = self.place.given_up() => return Some((Err(newer()), None)),
                () = self.address.given_up() => return Some((Err(newer()), None)),
                () = sleep_until(self.until.min(now + USED)) => {}
                changed = self.banned.changed() => {
                    changed.ok()?;
                    self.told = false;
                }
                changed = self.bundles.changed() => changed.ok()?,
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
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("a connection without an address"))?;
        let asked = self.ca.who(&request, &peer).await;
        let (_turn, caller, _) = asked.map_err(|refusal| {
            let (reason, why) = (refusal.reason(), refusal.to_string());
            tracing::debug!(target: "ca", peer = %peer.addr.ip(), reason, why, "bans not sent");
            refusal.status()
        })?;
        let watcher = self.tell(caller, peer)?;
        let told = stream::unfold(Some(watcher), async |watcher| watcher?.next().await);
        Ok(Response::new(Box::pin(told)))
    }
}
