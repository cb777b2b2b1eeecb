//! Looks at the files now and then. They are read once they have stopped changing, or have not for
//! long, and taken if nothing changed while they were read.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{super::pushed::Pushed, FilesConfig, read};
use crate::identity::TrustDomain;

const EVERY: Duration = Duration::from_millis(250);
/// How long they may keep changing before they are judged all the same, and what is wrong is put
/// down to that.
const RESTLESS: Duration = Duration::from_secs(5);
/// How often files that were refused are judged again though nobody touched them.
const ANEW: Duration = Duration::from_secs(30);

/// Which file it is, how long, and when it was written; links are followed, as Kubernetes swaps
/// those.
type Stamp = Option<(u64, u64, u64, SystemTime)>;

fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.len(), meta.modified().ok()?))
}

pub(super) async fn run(config: FilesConfig, trust_domain: TrustDomain, pushed: Arc<Pushed>) {
    let look = || config.paths().into_iter().map(|path| stamp(path)).collect::<Vec<_>>();
    let (mut taken, mut before) = (None, look());
    let (mut again, mut said) = (None::<Instant>, String::new());
    let (mut first, mut calm) = (true, Instant::now());
    loop {
        if !std::mem::take(&mut first) {
            tokio::time::sleep(EVERY).await;
        }
        let now = look();
        let settled = std::mem::replace(&mut before, now.clone()) == now;
        if settled {
            calm = Instant::now();
        }
        let due = again.is_some_and(|at| Instant::now() >= at);
        if (!settled && calm.elapsed() < RESTLESS) || (taken.as_ref() == Some(&now) && !due) {
            continue;
        }
        // A keystore's key derivation may take a second: not on the control thread.
        let (files, domain) = (config.clone(), trust_domain.clone());
        let read = move || read::read(&files, &domain, SystemTime::now());
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.unwrap_or_else(|e| Err(format!("reading them failed: {e}")));
        if look() != now {
            continue; // written while it was read
        }
        calm = Instant::now();
        if !settled && read.is_err() {
            continue;
        }
        taken = Some(now);
        match read {
            Ok((svid, bundles)) => {
                (again, said) = (None, String::new());
                tracing::info!(target: "svid", source = pushed.name(), identity = %svid.id, serial = svid.serial, "files read");
                pushed.publish(vec![svid], bundles);
            }
            Err(why) => {
                // Perhaps it is only too early for it.
                again = Some(Instant::now() + ANEW);
                if said == why {
                    continue;
                }
                said.clone_from(&why);
                tracing::warn!(target: "svid", source = pushed.name(), error = why, "files not taken; what was taken before stays");
                pushed.failed(why);
            }
        }
    }
}
