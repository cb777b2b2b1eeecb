//! Looks at the files now and then. They are read once they have stopped changing, or have not for
//! long, and taken if nothing changed while they were read.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{super::svid_cache::SvidCache, FilesConfig, read};
use crate::{
    identity::TrustDomain,
    lifecycle::{Look, WatchedFile},
};

const EVERY: Duration = Duration::from_millis(250);
/// How long they may keep changing before they are judged all the same, and what is wrong is put
/// down to that.
const RESTLESS: Duration = Duration::from_secs(5);
/// How often files that were refused are judged again though nobody touched them.
const ANEW: Duration = Duration::from_secs(30);

pub(super) async fn run(config: FilesConfig, trust_domain: TrustDomain, cache: Arc<SvidCache>) {
    let mut watched = WatchedFile::unread(config.paths().into_iter().cloned().collect());
    let (mut again, mut said) = (None::<Instant>, String::new());
    let (mut first, mut calm) = (true, Instant::now());
    loop {
        if !std::mem::take(&mut first) {
            tokio::time::sleep(EVERY).await;
        }
        let look = watched.look();
        if look != Look::Changing {
            calm = Instant::now();
        }
        let due = again.is_some_and(|at| Instant::now() >= at);
        match look {
            Look::Same if !due => continue,
            Look::Changing if calm.elapsed() < RESTLESS => continue,
            _ => {}
        }
        let now = watched.versions();
        // A keystore's key derivation may take a second: not on the control thread.
        let (files, domain) = (config.clone(), trust_domain.clone());
        let read = move || read::read(&files, &domain, SystemTime::now());
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.unwrap_or_else(|e| Err(format!("reading them failed: {e}")));
        if watched.versions() != now {
            continue; // written while it was read
        }
        calm = Instant::now();
        if look == Look::Changing && read.is_err() {
            continue;
        }
        if !watched.take(now) {
            continue;
        }
        match read {
            Ok((svid, bundles)) => {
                (again, said) = (None, String::new());
                tracing::info!(target: "svid", source = cache.name(), identity = %svid.id, serial = svid.serial, "files read");
                cache.publish(vec![svid], bundles);
            }
            Err(why) => {
                // Perhaps it is only too early for it.
                again = Some(Instant::now() + ANEW);
                if said == why {
                    continue;
                }
                said.clone_from(&why);
                tracing::warn!(target: "svid", source = cache.name(), error = why, "files not taken; what was taken before stays");
                cache.failed(why);
            }
        }
    }
}
