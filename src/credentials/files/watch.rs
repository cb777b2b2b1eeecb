//! The files, as they are there and as they change, for the cache.

use std::{sync::Arc, time::SystemTime};

use super::{
    super::{
        file_watch::{ANEW, FileReader, FileWatch},
        svid_cache::SvidCache,
    },
    FilesConfig, read,
};
use crate::{identity::TrustDomain, lifecycle::WatchedFile};

pub(super) async fn run(config: FilesConfig, trust_domain: TrustDomain, cache: Arc<SvidCache>) {
    let reader = FileReader::new(config.paths(), None);
    let mut watch = FileWatch::new(WatchedFile::unread(config.paths()), Some(ANEW));
    let read = || {
        let (files, domain) = (config.clone(), trust_domain.clone());
        reader.read(move || read::read(&files, &domain, SystemTime::now()))
    };
    loop {
        match watch.next(read).await {
            Ok((svid, bundles)) => {
                tracing::info!(
                    target: "svid", source = cache.name(), identity = %svid.id,
                    serial = svid.serial,
                    "files read"
                );
                cache.publish(vec![svid], bundles);
            }
            Err(why) => {
                tracing::warn!(
                    target: "svid", source = cache.name(), error = why,
                    "files rejected; keeping the previous ones"
                );
                cache.failed(why);
            }
        }
    }
}
