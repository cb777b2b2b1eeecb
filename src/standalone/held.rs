//! The tunnels of a service are held to the roots and CRLs of now, not to those of their handshake:
//! who is believed no more is closed with its streams.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use tokio::sync::watch;

use super::{Material, Service};
use crate::{
    hbone::{LiveTunnels, PeerExpiry},
    identity::BundleSet,
};

/// The tunnels that are open, and what they are held to.
pub(super) struct Held {
    pub(super) live: Arc<LiveTunnels>,
    bundles: watch::Sender<Arc<BundleSet>>,
}

impl Held {
    pub(super) fn new(material: &Material) -> Self {
        let bundles = material.svid.as_ref().map(|own| Arc::clone(&own.bundles));
        let bundles = watch::Sender::new(bundles.unwrap_or_default());
        Self { live: Arc::new(LiveTunnels::new(bundles.subscribe(), None)), bundles }
    }

    /// Follows the material. Returns when there is no more of it.
    pub(super) async fn follow(&self, service: &Service) {
        let mut news = service.keeper.watch();
        loop {
            let own = news.borrow_and_update().svid.clone();
            if let Some(own) = own {
                self.bundles.send_replace(own.bundles);
                self.close(service);
            }
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    /// Streams put their TLS facts into their record before they ask whether their tunnel is
    /// condemned; here it is condemned first and they are looked for then.
    fn close(&self, service: &Service) {
        let Some(trust) = self.live.trust() else { return };
        let condemned = self.live.recheck(&trust, |_| true, PeerExpiry::Keep, SystemTime::now());
        let by_facts: HashMap<_, _> =
            condemned.iter().map(|proven| (Arc::as_ptr(&proven.peer.tls), proven)).collect();
        if by_facts.is_empty() {
            return;
        }
        for conn in service.telemetry.live.all() {
            let tunnel = conn.facts(|f| by_facts.get(&Arc::as_ptr(f.tls.as_ref()?)).copied());
            let Some(verdict) = tunnel.and_then(|tunnel| tunnel.condemned()) else { continue };
            conn.facts(|f| f.error = Some(format!("closed: {}", verdict.why).into()));
            conn.cut(verdict.reason);
        }
        for proven in &condemned {
            let why = proven.condemned().map_or("", |verdict| &*verdict.why);
            tracing::warn!(target: "tunnel", peer = %proven.peer.id, why, "tunnel closed");
            proven.end();
        }
    }
}
