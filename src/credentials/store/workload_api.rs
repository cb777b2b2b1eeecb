//! Credentials from the SPIFFE Workload API.

use std::sync::Arc;

use super::credentials::{Credentials, certified};
use crate::{
    credentials::{Source as _, workload_api::WorkloadApi},
    identity::{BundleSet, LocalIdentity, PeerCert, X509Svid},
    tls::{Ends, PeerTrust},
};

pub(super) async fn first_svid(api: &WorkloadApi, shown: bool, from: &str) -> Credentials {
    let mut seen = 0;
    loop {
        api.news(&mut seen).await;
        if let Ok(svid) = api.default_svid()
            && let Ok(material) = of_svid(svid, &api.bundles().borrow().clone(), shown, from)
        {
            return material;
        }
    }
}

pub(super) fn of_svid(
    svid: X509Svid,
    bundles: &Arc<BundleSet>,
    shown: bool,
    from: &str,
) -> Result<Credentials, String> {
    let own = PeerCert::of(&svid.chain);
    let key = shown.then(|| certified(svid.chain.clone(), &svid.key)).transpose()?;
    let not_after = Some(svid.not_after);
    Ok(Credentials {
        key,
        trust: PeerTrust::Spiffe(Arc::clone(bundles)),
        own,
        svid: Some(LocalIdentity { svid: Arc::new(svid), bundles: Arc::clone(bundles) }),
        not_after,
        source: format!("Workload API {from}"),
        ends: Ends::default(),
        gone: None,
    })
}
