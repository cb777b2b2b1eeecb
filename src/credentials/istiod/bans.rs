//! Who is banned, as an `adit ca serve` tells it. istiod has no such thing, and is asked now and
//! then whether it has become one that does. What was told last holds while nobody tells more.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use tonic::{Code, Request, Status};

use super::{channel::connect, config::IstiodConfig, joined::JoinedSvids, status::said_to};
use crate::{
    identity::{BundleSet, SpiffeId, TrustDomain, TrustDomainAliases},
    lifecycle::Tasks,
    rpc::{
        BANNED,
        bans::{Banned, WatchRequest, bans_client::BansClient},
    },
};

/// The longest message: all bans that a CA's directory can hold.
const LONGEST: usize = 32 << 20;
/// After a stream that told something, and the longest after failures.
const AGAIN: Duration = Duration::from_secs(1);
const FAILED: Duration = Duration::from_secs(60);
/// After a refusal because of a ban, which may be lifted.
const BANNED_AGAIN: Duration = Duration::from_secs(5);
/// Until a server without the API is asked again.
const UNKNOWN: Duration = Duration::from_secs(300);

/// Follows them until dropped.
pub(super) struct Bans {
    known: Arc<KnownBans>,
    tasks: Tasks,
}

/// The identities that the CA bans, as it announced, and as it said when it was asked for an SVID.
#[derive(Default)]
struct KnownBans {
    aliases: TrustDomainAliases,
    say: watch::Sender<Arc<BTreeSet<SpiffeId>>>,
    by: Mutex<By>,
}

#[derive(Default)]
struct By {
    /// The trust domains of those for whom it was asked, which the aliases are other names of.
    own: BTreeSet<TrustDomain>,
    told: BTreeSet<SpiffeId>,
    refused: BTreeSet<SpiffeId>,
}

impl KnownBans {
    fn change(&self, change: impl FnOnce(&mut By)) {
        let mut by = self.by();
        change(&mut by);
        // Who is banned is so by each of the names of its trust domain.
        let named = |id: &SpiffeId| {
            let others = by.own.iter().flat_map(|own| self.aliases.other_names(id, own));
            others.chain([id.clone()]).collect::<Vec<_>>()
        };
        let ids: BTreeSet<_> = by.told.union(&by.refused).flat_map(named).collect();
        self.say.send_if_modified(|known| {
            let changed = **known != ids;
            *known = Arc::new(ids);
            changed
        });
    }

    fn issued(&self, id: &SpiffeId) {
        let was_banned = self.say.borrow().contains(id);
        if was_banned || !self.by().own.contains(id.trust_domain()) {
            self.change(|by| {
                by.own.insert(id.trust_domain().clone());
                by.refused.remove(id);
            });
        }
    }

    fn by(&self) -> MutexGuard<'_, By> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The identity that a refusal says is banned. Nothing else that fails says so.
pub(super) fn named(status: &Status) -> Option<SpiffeId> {
    let id = status.metadata().get(BANNED).filter(|_| status.code() == Code::PermissionDenied)?;
    id.to_str().ok()?.parse().ok()
}

impl Bans {
    /// From the first answer of the CA on, which `bundles` tells of.
    pub(super) fn follow(
        config: &IstiodConfig,
        joined: &Arc<JoinedSvids>,
        mut bundles: watch::Receiver<Arc<BundleSet>>,
    ) -> Self {
        let known = KnownBans { aliases: config.aliases.clone(), ..KnownBans::default() };
        let (known, tasks) = (Arc::new(known), Tasks::default());
        let follower = BanFollower { config: config.clone(), joined: Arc::clone(joined) };
        let say = Arc::clone(&known);
        tasks.spawn(async move {
            if bundles.wait_for(|known| known.iter().next().is_some()).await.is_ok() {
                drop(bundles);
                follower.run(&say).await;
            }
        });
        Self { known, tasks }
    }

    pub(super) fn banned(&self) -> watch::Receiver<Arc<BTreeSet<SpiffeId>>> {
        self.known.say.subscribe()
    }

    /// The CA refused an SVID because of a ban. It counts until one is given, or bans are told.
    pub(super) fn refused(&self, id: &SpiffeId) {
        self.known.change(|by| {
            by.own.insert(id.trust_domain().clone());
            by.refused.insert(id.clone());
        });
    }

    /// The CA gave an SVID.
    pub(super) fn issued(&self, id: &SpiffeId) {
        self.known.issued(id);
    }
}

impl Drop for Bans {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

struct BanFollower {
    config: IstiodConfig,
    joined: Arc<JoinedSvids>,
}

impl BanFollower {
    async fn run(&self, known: &KnownBans) {
        let (mut wait, mut told) = (AGAIN, String::new());
        loop {
            let heard = self.stream(known).await;
            wait = match &heard {
                Ok(()) => AGAIN,
                Err(status) if status.code() == Code::Unimplemented => UNKNOWN,
                Err(status) if named(status).is_some() => BANNED_AGAIN,
                Err(_) => (wait * 2).min(FAILED),
            };
            let joins = self.joined.any(&known.say.borrow()).is_some();
            let error = heard.err().map(|status| said_to(&status, joins)).unwrap_or_default();
            if wait != UNKNOWN && !error.is_empty() && error != told {
                tracing::warn!(
                    target: "svid", error,
                    "no update of bans; keeping the previous ones"
                );
            }
            told = error;
            sleep(wait).await;
        }
    }

    /// Until it ends; an error if it told nothing.
    async fn stream(&self, known: &KnownBans) -> Result<(), Status> {
        let mut request = Request::new(WatchRequest {});
        let own = self.joined.any(&known.say.borrow());
        if own.is_none() {
            let bearer = self.config.server.bearer().map_err(Status::unavailable)?;
            bearer.map(|bearer| request.metadata_mut().insert("authorization", bearer));
        }
        let (channel, refused) = connect(&self.config, own.clone());
        let mut client = BansClient::new(channel).max_decoding_message_size(LONGEST);
        let by_ban = |status: &Status| {
            if let Some(id) = named(status) {
                known.change(|by| by.refused.extend([id]));
            }
        };
        let watched = client.watch(request).await.inspect_err(|status| {
            by_ban(status);
            if let Some(own) = own.filter(|_| refused.seen()) {
                self.joined.refused(&own);
            }
        });
        let mut stream = watched?.into_inner();
        let mut told = false;
        loop {
            match stream.message().await {
                Ok(Some(message)) => take(message, known)?,
                Ok(None) => return Ok(()),
                Err(status) if told => {
                    by_ban(&status);
                    return Ok(());
                }
                Err(status) => return Err(status),
            }
            told = true;
        }
    }
}

/// The whole of it, or nothing.
fn take(message: Banned, known: &KnownBans) -> Result<(), Status> {
    let ids = message.ids.iter().map(|id| id.parse::<SpiffeId>());
    let ids = ids.collect::<Result<BTreeSet<_>, _>>();
    let ids =
        ids.map_err(|e| Status::internal(format!("it bans a name that is not a SPIFFE ID: {e}")))?;
    known.change(|by| (by.told, by.refused) = (ids, BTreeSet::new()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_banned_is_so_by_each_name_of_the_trust_domain() {
        let aliases = ["old".parse().unwrap()].into_iter().collect();
        let known = KnownBans { aliases, ..KnownBans::default() };
        let banned = || {
            let banned = known.say.borrow().clone();
            banned.iter().map(|id| id.principal().to_owned()).collect::<Vec<_>>()
        };
        let tell = |ids: &[&str]| {
            let ids = ids.iter().map(|id| format!("spiffe://{id}")).collect();
            take(Banned { ids }, &known).unwrap();
        };
        tell(&["old/x"]);
        assert_eq!(banned(), ["old/x"], "it is not known yet of what that is another name");
        known.issued(&"spiffe://td/ns/shop/sa/web".parse().unwrap());
        assert_eq!(banned(), ["old/x", "td/x"]);
        for (told, all) in [
            ("old/ns/a/sa/b", &["old/ns/a/sa/b", "td/ns/a/sa/b"][..]),
            ("td/ns/a/sa/b", &["old/ns/a/sa/b", "td/ns/a/sa/b"]),
            ("foreign/ns/a/sa/b", &["foreign/ns/a/sa/b"]),
        ] {
            tell(&[told]);
            assert_eq!(banned(), all);
        }
        tell(&[]);
        assert!(banned().is_empty());
    }
}
