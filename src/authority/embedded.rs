//! A CA inside adit, for a mesh without a control plane: authorities in a directory that
//! processes share; SVIDs are issued from them in memory. Each authority is prepared, active, old,
//! tainted and revoked in turn ([`CaDirectory`]); a running process follows within a second.

mod crl;
mod directory;
mod error;
mod issued;
mod last_fetch;
mod leaf;
mod loaded;
mod maintenance;
mod names;
mod plan;
mod published;
mod signer;
mod source;
mod state;
mod store;
mod upstream;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use pki_types::CertificateDer;
use rcgen::{KeyPair, PublicKeyData};
use tokio::sync::watch;

pub use self::{
    directory::{CaDirectory, Dependents, Overview},
    error::CaError,
    state::{Authority, AuthorityKind, AuthorityStatus, StepError},
    upstream::Upstream,
};
use self::{
    issued::Issued,
    last_fetch::LastFetch,
    loaded::Loaded,
    maintenance::SigningSource,
    signer::seconds,
    state::CaState,
    store::{Lock, Store},
};
use crate::{
    identity::{
        BundleSet, JwtSignError, JwtSigner, PrivateKey, SpiffeId, TrustBundle, TrustDomain,
        X509Svid, parse_leaf,
    },
    lifecycle::Tasks,
};

/// How long a JWT-SVID serves: nobody can take one back.
const JWT_LIFETIME: Duration = Duration::from_secs(300);
/// How often a running process looks into the directory.
const LOOK: Duration = Duration::from_secs(1);

/// The CA.
pub struct EmbeddedCa {
    trust_domain: TrustDomain,
    lifetime: Duration,
    store: Store,
    upstream: Option<Upstream>,
    loaded: ArcSwap<Loaded>,
    /// One reload at a time.
    reload: Mutex<()>,
    bundles: watch::Sender<Arc<BundleSet>>,
    banned: watch::Sender<Arc<BTreeSet<SpiffeId>>>,
    /// Says that `loaded` is another.
    changes: watch::Sender<()>,
    last_fetches: Mutex<HashMap<Arc<str>, LastFetch>>,
    unsynced: AtomicBool,
    pruned: AtomicU64,
    tasks: Tasks,
}

impl std::fmt::Debug for EmbeddedCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EmbeddedCa({})", self.trust_domain)
    }
}

impl Drop for EmbeddedCa {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

impl EmbeddedCa {
    /// Opens the CA in `dir`, making its first authorities at the first call. Processes that open
    /// the same directory at once get the same ones.
    ///
    /// # Errors
    /// [`CaError::File`] names the file: only one of a pair there, a key that others can
    /// read, a key of another certificate, another trust domain, an expired root.
    pub fn open(
        dir: &Path,
        trust_domain: &TrustDomain,
        lifetime: Duration,
    ) -> Result<Self, CaError> {
        Self::open_under(dir, trust_domain, lifetime, None)
    }

    /// Opens the CA in `dir` as [`EmbeddedCa::open`] does, with `upstream`, an intermediate from
    /// elsewhere that signs X.509-SVIDs.
    ///
    /// # Errors
    /// As [`EmbeddedCa::open`]; also if the files do not verify together.
    pub fn open_under(
        dir: &Path,
        trust_domain: &TrustDomain,
        lifetime: Duration,
        upstream: Option<Upstream>,
    ) -> Result<Self, CaError> {
        fs::create_dir_all(dir).map_err(|e| CaError::io(dir, &e, "cannot be created"))?;
        let store = Store { dir: dir.to_owned() };
        if let Some(theirs) =
            upstream.as_ref().and_then(|u| u.file_at(&store.path(published::FILE)))
        {
            let why =
                "is where the CA writes what it publishes: keep the upstream's file elsewhere";
            return Err(CaError::file(theirs, why));
        }
        let lock = store.lock()?;
        let source = upstream.as_ref().map_or(SigningSource::Local, SigningSource::Upstream);
        maintenance::initialize(&store, &lock, trust_domain, source)?;
        let loaded = Loaded::read(&store, trust_domain, upstream.as_ref(), None)?;
        drop(lock);
        let bundles = Arc::new([loaded.bundle.clone()].into_iter().collect());
        Ok(Self {
            trust_domain: trust_domain.clone(),
            lifetime,
            store,
            upstream,
            bundles: watch::channel(bundles).0,
            banned: watch::channel(Arc::clone(&loaded.banned)).0,
            changes: watch::channel(()).0,
            loaded: ArcSwap::from_pointee(loaded),
            reload: Mutex::default(),
            last_fetches: Mutex::default(),
            unsynced: AtomicBool::new(false),
            pruned: AtomicU64::new(0),
            tasks: Tasks::default(),
        })
    }

    /// The trust bundle: all authorities that are not revoked.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        self.loaded.load().bundle.clone()
    }

    /// Who gets nothing, and whose connections should end.
    #[must_use]
    pub fn banned(&self) -> watch::Receiver<Arc<BTreeSet<SpiffeId>>> {
        self.banned.subscribe()
    }

    /// Issues an X.509-SVID with a new P-256 key, valid from 10 s ago for the configured
    /// lifetime, at most until its authority expires.
    ///
    /// # Errors
    /// As [`EmbeddedCa::sign`].
    pub fn issue(&self, id: &SpiffeId) -> Result<X509Svid, CaError> {
        let key = KeyPair::generate()?;
        let chain = self.sign(id, &key, self.lifetime)?;
        let leaf = parse_leaf(&chain[0]).map_err(|e| CaError::Sign(e.to_string()))?;
        Ok(X509Svid {
            id: leaf.id,
            chain,
            key: PrivateKey::from_pkcs8(key.serialize_der()),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            serial: leaf.serial,
        })
    }

    /// Certifies that `id` holds `key`: the chain of an X.509-SVID, leaf first, valid from 10 s
    /// ago for `lifetime`, at most until the authority expires. Once a ban or a successor is in
    /// the directory, nothing is issued against it.
    ///
    /// # Errors
    /// An ID of another trust domain, without a path or banned; an authority's key that is no
    /// longer the one on disk (an operator took it away); a directory that cannot be read, or
    /// written: what is issued must be on record.
    pub fn sign(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        lifetime: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        self.check_is_ours(id)?;
        let lock = self.store.lock_shared()?;
        let loaded = self.current(&lock)?;
        if loaded.banned.contains(id) {
            return Err(CaError::Banned(id.clone()));
        }
        loaded.signer.check_key_is_still_there()?;
        let signed = leaf::sign(&loaded.signer, id, key, lifetime)?;
        let issued = Issued {
            serial: signed.serial,
            id: id.to_string(),
            not_after: seconds(signed.not_after),
            issuer: loaded.signer.id.to_string(),
        };
        issued::append(&self.store, &lock, &issued)?;
        self.unsynced.store(true, Ordering::Relaxed);
        Ok(signed.chain)
    }

    /// A JWT-SVID of `id` for these audiences, valid for five minutes at most.
    ///
    /// # Errors
    /// As [`EmbeddedCa::sign`]; also no audience.
    pub fn sign_jwt(&self, id: &SpiffeId, audiences: &[String]) -> Result<String, CaError> {
        self.check_is_ours(id)?;
        let lock = self.store.lock_shared()?;
        let loaded = self.current(&lock)?;
        if loaded.banned.contains(id) {
            return Err(CaError::Banned(id.clone()));
        }
        let (now, jwt) = (SystemTime::now(), &loaded.jwt);
        jwt.check_key_is_still_there()?;
        let left = jwt.not_after.duration_since(now).unwrap_or_default();
        let sign = |e: JwtSignError| CaError::Sign(e.to_string());
        let signer = JwtSigner::new(&jwt.key).map_err(sign)?.with_key_id(&jwt.authority.key_id);
        signer.sign_jwt_svid(id, audiences, JWT_LIFETIME.min(left), now).map_err(sign)
    }

    fn check_is_ours(&self, id: &SpiffeId) -> Result<(), CaError> {
        let why = match (*id.trust_domain() == self.trust_domain, id.path().is_empty()) {
            (false, _) => "it belongs to another trust domain",
            (true, true) => "it has no path and so names the trust domain itself",
            (true, false) => return Ok(()),
        };
        let trust_domain = self.trust_domain.clone();
        Err(CaError::NotOurs { trust_domain, id: id.clone(), why })
    }

    /// Does what is due in the directory, and takes what others changed there.
    ///
    /// # Errors
    /// If the directory cannot be used; what was read last stays.
    pub fn refresh(&self) -> Result<(), CaError> {
        if self.unsynced.swap(false, Ordering::Relaxed) {
            issued::sync(&self.store)?;
        }
        let now = seconds(SystemTime::now());
        if issued::prune_due(&self.store, self.pruned.load(Ordering::Relaxed)) {
            let left = issued::prune(&self.store, &self.store.lock()?, now)?;
            self.pruned.store(left, Ordering::Relaxed);
        }
        let lock = self.store.lock_shared()?;
        let loaded = self.current(&lock)?;
        drop(lock);
        if self.is_due(&loaded, now) {
            let lock = self.store.lock()?;
            maintenance::maintain(&self.store, &lock, &self.trust_domain, loaded.found.as_ref())?;
            self.current(&lock)?;
        }
        self.forget_old_fetches();
        Ok(())
    }

    fn is_due(&self, loaded: &Loaded, now: u64) -> bool {
        let planned = |kind| plan::due(kind, loaded.state.of(kind), now).is_some();
        let published = loaded.state.upstream.as_ref();
        let moved = loaded.found.as_ref().is_some_and(|f| published != Some(&f.digest()));
        let files = loaded.files_behind || crl::aged(&self.store);
        planned(AuthorityKind::X509) || planned(AuthorityKind::Jwt) || files || moved
    }

    /// Waits until what `authority` signed should be renewed, because peers will soon not trust it
    /// any more: it is tainted, or gone. Cancel safe.
    pub(super) async fn leaves(&self, authority: &str) {
        let mut changes = self.changes.subscribe();
        let stays = || {
            let loaded = self.loaded.load();
            let own = loaded.state.x509.iter();
            *loaded.signer.id == *authority
                || own.clone().any(|a| *a.id == *authority && a.status != AuthorityStatus::Tainted)
        };
        while stays() {
            if changes.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Looks into the directory every second for as long as the CA is used. Needs a running
    /// runtime.
    pub fn keep_fresh(self: &Arc<Self>) {
        let ca = Arc::downgrade(self);
        self.tasks.spawn(async move {
            let mut said = String::new();
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(ca) = ca.upgrade() else { return };
                let now = ca.refresh().err().map(|e| e.to_string()).unwrap_or_default();
                if now != said && !now.is_empty() {
                    tracing::warn!(
                        error = now,
                        "the CA's directory was rejected; keeping the previous state"
                    );
                }
                said = now;
            }
        });
    }

    /// What the directory says now. Needs a lock of it.
    fn current(&self, _lock: &Lock) -> Result<Arc<Loaded>, CaError> {
        let loaded = self.loaded.load_full();
        if loaded.is_current() {
            return Ok(loaded);
        }
        let _one = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = self.loaded.load_full();
        if loaded.is_current() {
            return Ok(loaded);
        }
        let upstream = self.upstream.as_ref();
        let new = Loaded::read(&self.store, &self.trust_domain, upstream, Some(&loaded))?;
        let new = Arc::new(new);
        self.loaded.store(Arc::clone(&new));
        let same = |a: &CaState, b: &CaState| a.sequence == b.sequence;
        if !same(&loaded.state, &new.state) || loaded.signer.id != new.signer.id {
            tracing::info!(
                sequence = new.state.sequence,
                active = %new.signer.id,
                authorities = new.bundle.authorities.len(),
                "the CA's authorities changed"
            );
        }
        let set: Arc<BundleSet> = Arc::new([new.bundle.clone()].into_iter().collect());
        // First, so that whoever sees a revocation sees the ban that it is of.
        self.banned.send_if_modified(|held| {
            let changed = *held != new.banned;
            *held = Arc::clone(&new.banned);
            changed
        });
        self.bundles.send_if_modified(|held| {
            let changed = *held != set;
            *held = set;
            changed
        });
        self.changes.send_replace(());
        Ok(new)
    }
}

#[cfg(test)]
mod tests;
