//! Who is banned, as an `adit ca serve` tells it. istiod has no such thing, and is asked now and
//! then whether it has become one that does. What was told last holds while nobody tells more.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tonic::{Code, Request, Status};

use super::{IstiodConfig, connect, credentials, joined::Joined, said};
use crate::{
    identity::{BundleSet, SpiffeId},
    lifecycle::Tasks,
    rpc::bans::{Banned, WatchRequest, bans_client::BansClient},
};

/// The longest message: all bans that a CA's directory can hold.
const LONGEST: usize = 32 << 20;
/// After a stream that told something, and the longest after failures.
const AGAIN: Duration = Duration::from_secs(1);
const FAILED: Duration = Duration::from_secs(60);
/// Until a server without the API is asked again.
const UNKNOWN: Duration = Duration::from_secs(300);

/// Follows them until dropped.
pub(super) struct Bans {
    known: watch::Sender<Arc<BTreeSet<SpiffeId>>>,
    tasks: Tasks,
}

impl Bans {
    /// From the first answer of the CA on, which `bundles` tells of.
    pub(super) fn follow(
        config: &IstiodConfig,
        joined: &Arc<Joined>,
        mut bundles: watch::Receiver<Arc<BundleSet>>,
    ) -> Self {
        let (known, tasks) = (watch::Sender::new(Arc::default()), Tasks::default());
        let follower = Follower { config: config.clone(), joined: Arc::clone(joined) };
        let say = known.clone();
        tasks.spawn(async move {
            if bundles.wait_for(|known| known.iter().next().is_some()).await.is_ok() {
                drop(bundles);
                follower.run(&say).await;
            }
        });
        Self { known, tasks }
    }

    pub(super) fn banned(&self) -> watch::Receiver<Arc<BTreeSet<SpiffeId>>> {
        self.known.subscribe()
    }
}

impl Drop for Bans {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

struct Follower {
    config: IstiodConfig,
    joined: Arc<Joined>,
}

impl Follower {
    async fn run(&self, say: &watch::Sender<Arc<BTreeSet<SpiffeId>>>) {
        let (mut wait, mut told) = (AGAIN, String::new());
        loop {
            let heard = self.stream(say).await;
            wait = match &heard {
                Ok(()) => AGAIN,
                Err(status) if status.code() == Code::Unimplemented => UNKNOWN,
                Err(_) => (wait * 2).min(FAILED),
            };
            let error = heard.err().map(|status| said(&status)).unwrap_or_default();
            if wait != UNKNOWN && !error.is_empty() && error != told {
                tracing::warn!(target: "svid", error, "bans are not told; those of before hold");
            }
            told = error;
            sleep(wait).await;
        }
    }

    /// Until it ends; an error if it told nothing.
    async fn stream(&self, say: &watch::Sender<Arc<BTreeSet<SpiffeId>>>) -> Result<(), Status> {
        let mut request = Request::new(WatchRequest {});
        let own = self.joined.any();
        if own.is_none() {
            let bearer = credentials::bearer(&self.config).map_err(Status::unavailable)?;
            request.metadata_mut().insert("authorization", bearer);
        }
        let channel = connect(&self.config, own);
        let mut client = BansClient::new(channel).max_decoding_message_size(LONGEST);
        let mut stream = client.watch(request).await?.into_inner();
        let mut told = false;
        loop {
            match stream.message().await {
                Ok(Some(message)) => take(message, say)?,
                Ok(None) => return Ok(()),
                Err(_) if told => return Ok(()),
                Err(status) => return Err(status),
            }
            told = true;
        }
    }
}

/// The whole of it, or nothing.
fn take(message: Banned, say: &watch::Sender<Arc<BTreeSet<SpiffeId>>>) -> Result<(), Status> {
    let ids = message.ids.iter().map(|id| id.parse::<SpiffeId>());
    let ids = ids.collect::<Result<BTreeSet<_>, _>>();
    let ids = ids.map_err(|e| Status::internal(format!("it bans what is no SPIFFE ID: {e}")))?;
    say.send_if_modified(|known| {
        let changed = **known != ids;
        *known = Arc::new(ids);
        changed
    });
    Ok(())
}
