//! A join token serves once: an SVID that came by one is renewed by showing that SVID itself.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use pki_types::PrivateKeyDer;
use rustls::{crypto::aws_lc_rs::sign::any_supported_type, sign::CertifiedKey};

use crate::{
    credentials::Wanted,
    identity::{SpiffeId, X509Svid},
};

struct JoinedSvid {
    id: SpiffeId,
    not_after: SystemTime,
    key: Arc<CertifiedKey>,
    /// The CA takes it no more: only a token helps.
    refused: bool,
}

/// The SVIDs that can renew themselves, by workload.
#[derive(Default)]
pub(super) struct JoinedSvids(Mutex<HashMap<Arc<str>, JoinedSvid>>);

impl JoinedSvids {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, JoinedSvid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to show for this workload, while it is valid.
    pub(super) fn of(&self, wanted: &Wanted) -> Option<Arc<CertifiedKey>> {
        let all = self.lock();
        let held = all.get(&wanted.uid)?;
        let usable = held.id == wanted.id && held.not_after > SystemTime::now() && !held.refused;
        usable.then(|| Arc::clone(&held.key))
    }

    /// What to show for the node itself: any that is valid, of nobody who is banned if it can be.
    pub(super) fn any(&self, banned: &BTreeSet<SpiffeId>) -> Option<Arc<CertifiedKey>> {
        let (all, now) = (self.lock(), SystemTime::now());
        let valid = all.values().filter(|held| held.not_after > now && !held.refused);
        valid.min_by_key(|held| banned.contains(&held.id)).map(|held| Arc::clone(&held.key))
    }

    /// Keeps it for its workload, and drops what has expired.
    pub(super) fn keep(&self, wanted: &Wanted, svid: &X509Svid) {
        let der = PrivateKeyDer::Pkcs8(svid.key.pkcs8().into());
        let Ok(key) = any_supported_type(&der) else { return };
        let key = Arc::new(CertifiedKey::new(svid.chain.clone(), key));
        let held =
            JoinedSvid { id: wanted.id.clone(), not_after: svid.not_after, key, refused: false };
        let mut all = self.lock();
        let now = SystemTime::now();
        all.retain(|_, held| held.not_after > now);
        all.insert(Arc::clone(&wanted.uid), held);
    }

    /// The workload has left: so does its key.
    pub(super) fn gone(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// The CA does not take this one any more: the token counts again.
    pub(super) fn refused(&self, key: &Arc<CertifiedKey>) {
        for held in self.lock().values_mut().filter(|held| Arc::ptr_eq(&held.key, key)) {
            held.refused = true;
        }
    }

    /// Whether the one of this workload is such, or has expired, so that it waits for a token.
    pub(super) fn is_refused(&self, wanted: &Wanted) -> bool {
        let now = SystemTime::now();
        self.lock().get(&wanted.uid).is_some_and(|held| held.refused || held.not_after <= now)
    }

    /// It is not taken any more: the token counts again.
    pub(super) fn forget(&self, wanted: &Wanted) {
        self.lock().remove(&wanted.uid);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::identity::PrivateKey;

    fn svid(id: &SpiffeId) -> X509Svid {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let now = SystemTime::now();
        X509Svid {
            id: id.clone(),
            chain: vec![certificate.der().clone()],
            key: PrivateKey::from_pkcs8(key.serialize_der()),
            not_before: now,
            not_after: now + Duration::from_secs(60),
            serial: "1".into(),
        }
    }

    #[test]
    fn the_key_of_a_workload_that_has_left_is_not_kept() {
        let id: SpiffeId = "spiffe://td/host/a".parse().unwrap();
        let wanted = Wanted { uid: "a".into(), id: id.clone() };
        let joined = JoinedSvids::default();
        joined.keep(&wanted, &svid(&id));
        assert!(joined.of(&wanted).is_some());
        joined.gone("b");
        assert!(joined.of(&wanted).is_some());
        joined.gone("a");
        assert!(joined.of(&wanted).is_none());
    }
}
