//! A stream of whole states (Workload API §4.3): the first at once, another after each change
//! of what the caller may have, of an SVID or of a bundle, and none if nothing changed for it.
//! It runs as it is read: a client that goes away takes all of it along.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{
    Stream,
    future::{pending, select_all},
    stream,
};
use tokio::{sync::watch, time::Instant};
use tonic::Status;

use super::{
    attest::CallingProcess,
    entitled::{CallerFacts, Entitlement, Registrations, entitled},
    limits::UsagePlace,
    shared::Shared,
};
use crate::{
    credentials::{Following, SourceError},
    identity::{BundleSet, SpiffeId, TrustDomain, X509Svid, shown},
};

/// How long a call waits for what is still being fetched.
const STARTING: Duration = Duration::from_secs(3);

/// What a caller may have, as of now.
#[derive(Debug)]
pub(super) struct View {
    /// Its own trust domain.
    pub(super) trust_domain: TrustDomain,
    /// Its valid SVIDs, the default one first.
    pub(super) svids: Vec<(Entitlement, Arc<X509Svid>)>,
    /// All bundles; its own trust domain's is among them.
    pub(super) bundles: Arc<BundleSet>,
}

/// What a message needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Needs {
    /// An identity of the caller's, whether or not its SVID is there.
    Identity,
    /// At least one SVID.
    Svids,
}

/// Looks at the state for one caller, again and again.
pub(super) struct EntitlementWatcher {
    shared: Arc<Shared>,
    caller: Arc<CallingProcess>,
    registered: watch::Receiver<Option<Arc<Registrations>>>,
    bundles: watch::Receiver<Arc<BundleSet>>,
    banned: Option<watch::Receiver<Arc<BTreeSet<SpiffeId>>>>,
    followed: Vec<(Entitlement, Option<Following>)>,
    _place: Arc<UsagePlace>,
}

impl EntitlementWatcher {
    pub(super) fn new(
        shared: &Arc<Shared>,
        caller: Arc<CallingProcess>,
        place: Arc<UsagePlace>,
    ) -> Self {
        Self {
            registered: shared.registered.subscribe(),
            bundles: shared.svids.follow_bundles(),
            banned: shared.svids.watch_banned(),
            shared: Arc::clone(shared),
            caller,
            followed: Vec::new(),
            _place: place,
        }
    }

    /// What the caller is entitled to, less what is banned: the last good SVID of before a ban is
    /// held until it ends, and is given to nobody.
    pub(super) fn entitled(&mut self) -> Result<Vec<Entitlement>, Status> {
        let registered = self.registered.borrow_and_update().clone();
        let registered = registered.ok_or_else(|| Status::unavailable("adit is starting"))?;
        let facts = self.caller.facts().map_err(|e| Status::unavailable(e.to_string()))?;
        let mut all = entitled(&registered, &facts);
        if let Some(banned) = &mut self.banned {
            let banned = banned.borrow_and_update();
            let before = all.len();
            all.retain(|given| !banned.contains(&given.id));
            if all.is_empty() && before > 0 {
                return Err(Status::permission_denied("the identities of this process are banned"));
            }
        }
        if all.is_empty() {
            let CallerFacts { uid, gid, path, .. } = &facts;
            let path = path.as_deref().map(shown);
            tracing::debug!(target: "workload_api", uid, gid, path, "caller without identity");
            return Err(Status::permission_denied(
                "no identity is registered for this process; see workloadApi.entries of the mesh \
                 file",
            ));
        }
        Ok(all)
    }

    /// The state, waiting a little for what is still being fetched.
    async fn view(&mut self, needs: Needs) -> Result<View, Status> {
        let deadline = Instant::now() + STARTING;
        loop {
            let late = Instant::now() >= deadline;
            match self.look(needs, late) {
                Err(status) if status.code() == tonic::Code::Unavailable && !late => {}
                looked => return looked,
            }
            // Over the deadline the next look says what is missing.
            let _ = tokio::time::timeout_at(deadline, self.changed()).await;
        }
    }

    /// Unavailable if something may still come, unless it is late.
    fn look(&mut self, needs: Needs, late: bool) -> Result<View, Status> {
        let entitled = self.entitled()?;
        let svids = &self.shared.svids;
        self.followed = entitled
            .into_iter()
            .map(|e| (svids.follow(&e.held_as), e))
            .map(|(f, e)| (e, f))
            .collect();
        let bundles = self.bundles.borrow_and_update().clone();
        let trust_domain = self.shared.trust_domain.clone();
        let own = bundles.get(&trust_domain);
        if own.is_none_or(|own| own.authorities.is_empty()) {
            let why = format!("there is no bundle of {trust_domain} yet");
            return Err(Status::unavailable(why));
        }
        let (mut valid, mut error) = (Vec::new(), None);
        for (entitlement, following) in &mut self.followed {
            match following.as_mut().and_then(Following::latest) {
                Some(Ok(svid)) => valid.push((entitlement.clone(), svid)),
                Some(Err(why)) => error = Some(why),
                None if late || needs == Needs::Identity => {}
                None => return Err(Status::unavailable("the SVID is still being fetched")),
            }
        }
        if valid.is_empty() && needs == Needs::Svids {
            return Err(no_svid(error.as_deref()));
        }
        Ok(View { trust_domain, svids: valid, bundles })
    }

    /// Waits until something changed since the last look. Cancel safe.
    async fn changed(&mut self) {
        let followed = self.followed.iter_mut().filter_map(|(_, following)| following.as_mut());
        let any: Vec<_> = followed.map(|f| Box::pin(f.changed())).collect();
        let svid = async {
            if any.is_empty() {
                pending::<()>().await;
            } else {
                select_all(any).await;
            }
        };
        let banned = async {
            if let Some(banned) = &mut self.banned
                && banned.changed().await.is_ok()
            {
                return;
            }
            pending().await
        };
        tokio::select! {
            // The server has ended, or the source: nothing more will come.
            told = self.registered.changed() => if told.is_err() { pending().await },
            Ok(()) = self.bundles.changed() => {}
            () = svid => {}
            () = banned => {}
        }
    }
}

fn no_svid(error: Option<&SourceError>) -> Status {
    match error {
        Some(error) => Status::unavailable(format!("no valid SVID: {error}")),
        None => Status::unavailable("no SVID yet"),
    }
}

/// A message that a feed carries.
pub(super) trait Message: Clone + PartialEq + Send + 'static {
    /// What it needs.
    const NEEDS: Needs;

    /// The whole state.
    fn whole(view: &View) -> Self;

    /// Drops what is secret and changes only with the rest: what is kept to compare with.
    fn redact(&mut self) {}
}

/// The stream of messages to one caller. It ends with the status that says why.
///
/// # Errors
/// If there is no first message.
pub(super) async fn feed<M: Message>(
    mut watcher: EntitlementWatcher,
) -> Result<impl Stream<Item = Result<M, Status>> + Send + 'static, Status> {
    let first = M::whole(&watcher.view(M::NEEDS).await?);
    let sent = redacted(&first);
    let rest = stream::unfold(Some((watcher, sent)), |state| async {
        let (mut watcher, sent) = state?;
        loop {
            watcher.changed().await;
            match watcher.view(M::NEEDS).await.map(|view| M::whole(&view)) {
                Err(status) => return Some((Err(status), None)),
                Ok(message) => {
                    let now = redacted(&message);
                    if now != sent {
                        return Some((Ok(message), Some((watcher, now))));
                    }
                }
            }
        }
    });
    Ok(futures_util::StreamExt::chain(stream::once(async { Ok(first) }), rest))
}

fn redacted<M: Message>(message: &M) -> M {
    let mut copy = message.clone();
    copy.redact();
    copy
}
