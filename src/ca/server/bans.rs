//! Who is banned, told to nodes: at once and after each change, so that they close what is open to
//! the banned as soon as those do that have the CA's directory.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::{Request, Response, Status, async_trait};

use super::{CONNECTION_AGE, Peer, Refusal, service::CaService};
use crate::{
    identity::SpiffeId,
    lifecycle::{Place, Places},
    rpc::bans::{Banned, WatchRequest, bans_server::Bans},
};

/// How many are told at a time, and how many of one caller, however it proves who it is.
const WATCHERS: usize = 4096;
const OF_ONE: usize = 16;
/// One begins with all that are banned: it costs as much as so many other calls, so a caller
/// begins one every half second, and 40 at once.
const COST: f64 = 50.0;
/// How often a watcher shows that its connection is in use.
const USED: Duration = Duration::from_secs(60);

/// The service.
pub(super) struct BansService {
    ca: Arc<CaService>,
    places: Places<String>,
}

impl BansService {
    pub(super) fn new(ca: Arc<CaService>) -> Self {
        Self { ca, places: Places::new(WATCHERS, OF_ONE) }
    }
}

/// One that is told.
struct Watcher {
    peer: Peer,
    banned: watch::Receiver<Arc<BTreeSet<SpiffeId>>>,
    place: Place<String>,
    told: bool,
    /// It proves anew who it is after this.
    until: Instant,
}

impl Watcher {
    /// The next message; `None` at the end.
    async fn next(mut self) -> Option<(Result<Banned, Status>, Self)> {
        while self.told {
            self.peer.stay.asked();
            let now = Instant::now();
            if now >= self.until {
                return None;
            }
            let changed = timeout_at(self.until.min(now + USED), self.banned.changed());
            tokio::select! {
                () = self.place.given_up() => return None,
                changed = changed => match changed {
                    Err(_) => {}
                    Ok(Err(_)) => return None,
                    Ok(Ok(())) => self.told = false,
                },
            }
        }
        self.told = true;
        let ids = self.banned.borrow_and_update().iter().map(ToString::to_string).collect();
        Some((Ok(Banned { ids }), self))
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
            tracing::debug!(target: "ca", peer = %peer.addr.ip(), reason, why, "bans not told");
            refusal.status()
        })?;
        let of = caller.one();
        if !self.ca.may_watch(&of, COST) {
            return Err(Refusal::RateLimited.status());
        }
        let full = || Status::resource_exhausted("too many watchers of this caller");
        let place = self.places.take(of).ok_or_else(full)?;
        place.prove();
        let until = Instant::now() + CONNECTION_AGE;
        let watcher = Watcher { peer, banned: self.ca.banned(), place, told: false, until };
        Ok(Response::new(Box::pin(stream::unfold(watcher, Watcher::next))))
    }
}
