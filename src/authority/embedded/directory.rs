//! The steps that an operator takes in a CA's directory, while processes run on it or not. Each
//! is one locked read, one decision ([`super::state`]) and one atomic write.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, SystemTime},
};

use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    error::CaError,
    issued,
    maintenance::{self, SigningSource, prepare},
    signer::{domain_of, read_certificate, seconds},
    state::{Authority, AuthorityKind, AuthorityStatus, CaState, RevokedSerial, StepError},
    store::{Lock, ROOT, STATE, Store},
};
use crate::identity::{SpiffeId, TrustDomain};

/// More bans than this are a policy, not an emergency.
const MOST_BANS: usize = 10_000;
/// More revoked serial numbers than this make a CRL that every peer would have to read at each
/// change; whoever asks for an SVID a hundred times a second must not get that far.
const MOST_REVOKED: usize = 50_000;

/// The directory of an embedded CA, for whoever takes the steps of its authorities' lives.
#[derive(Debug)]
pub struct CaDirectory {
    store: Store,
    trust_domain: TrustDomain,
}

/// What is in a CA's directory.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Whose CA it is.
    pub trust_domain: TrustDomain,
    /// `spiffe_sequence`.
    pub sequence: u64,
    /// Whether X.509-SVIDs are signed by an intermediate from elsewhere.
    pub upstream: bool,
    /// The X.509 authorities of the directory.
    pub x509: Vec<Authority>,
    /// The JWT authorities.
    pub jwt: Vec<Authority>,
    /// Who gets nothing.
    pub banned: Vec<String>,
    /// How many serial numbers are revoked.
    pub revoked: usize,
}

/// Who still depends on an X.509 authority.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Dependents {
    /// Identities that have SVIDs under it and none under a newer authority.
    pub identities: BTreeSet<String>,
    /// When the last of their SVIDs expires, in seconds since 1970.
    pub until: u64,
}

impl CaDirectory {
    /// Opens what `adit run` made.
    ///
    /// # Errors
    /// If there is no CA in it, or a damaged one.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        let store = Store { dir: dir.to_owned() };
        if !store.path(STATE).exists() && !store.path(ROOT).exists() {
            return Err(CaError::file(
                dir,
                "contains no CA; `adit run` creates one when it starts",
            ));
        }
        let lock = store.lock()?;
        let state = store.read()?;
        let name = match &state {
            Some(state) => state.trust_domain.clone(),
            None => root_domain(&store)?,
        };
        let trust_domain: TrustDomain = name
            .parse()
            .map_err(|e| CaError::file(dir, format!("is for trust domain {name:?}: {e}")))?;
        let source = SigningSource::like(state.as_ref());
        maintenance::initialize(&store, &lock, &trust_domain, source)?;
        drop(lock);
        Ok(Self { store, trust_domain })
    }

    /// What is in it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn show(&self) -> Result<Overview, CaError> {
        let _lock = self.store.lock_shared()?;
        let state = self.read()?;
        Ok(Overview {
            trust_domain: self.trust_domain.clone(),
            sequence: state.sequence,
            upstream: state.upstream.is_some(),
            x509: state.x509,
            jwt: state.jwt,
            banned: state.banned.into_iter().collect(),
            revoked: state.revoked.len(),
        })
    }

    /// Makes the next authority: trusted from now on, not used yet. Returns its ID.
    ///
    /// # Errors
    /// [`CaError::Step`] says what to do instead.
    pub fn prepare(&self, kind: AuthorityKind) -> Result<String, CaError> {
        self.step(|state, _| prepare(&self.store, state, kind, &self.trust_domain))
    }

    /// Has the prepared authority sign from now on, if it was prepared `least` ago. Returns its
    /// ID.
    ///
    /// # Errors
    /// [`CaError::Step`] says what to do instead.
    pub fn activate(&self, kind: AuthorityKind, least: Duration) -> Result<String, CaError> {
        self.step(|state, now| {
            if let Some(next) = state.with(kind, AuthorityStatus::Prepared) {
                let (ago, least) = (now.saturating_sub(next.since), least.as_secs());
                if ago < least {
                    return Err(StepError::TooFresh { id: next.id.clone(), ago, least }.into());
                }
            }
            Ok(state.activate(kind, now)?)
        })
    }

    /// Marks the old authority (or the one that `id` names) as about to be revoked. Returns its
    /// ID.
    ///
    /// # Errors
    /// [`CaError::Step`] says what to do instead.
    pub fn taint(&self, kind: AuthorityKind, id: Option<&str>) -> Result<String, CaError> {
        self.step(|state, now| Ok(state.taint(kind, id, now)?))
    }

    /// Takes the tainted authority (or the one that `id` names) out of the bundle and removes its
    /// key. Returns its ID.
    ///
    /// # Errors
    /// [`CaError::Step`] says what to do instead; without `force` also while somebody has no SVID
    /// but under it.
    pub fn revoke(
        &self,
        kind: AuthorityKind,
        id: Option<&str>,
        force: bool,
    ) -> Result<String, CaError> {
        self.step(|state, now| {
            let id = state.may_revoke(kind, id)?;
            let left = self.count_dependents(state, &id, now)?;
            if kind == AuthorityKind::X509
                && !force
                && let Some(example) = left.identities.first()
            {
                return Err(StepError::InUse {
                    id,
                    identities: left.identities.len(),
                    example: example.clone(),
                    seconds: left.until.saturating_sub(now),
                }
                .into());
            }
            state.remove(kind, &id);
            Ok(id)
        })
    }

    /// Who would lose their SVID with this X.509 authority.
    ///
    /// # Errors
    /// If the record of what was issued cannot be read.
    pub fn dependents(&self, id: &str) -> Result<Dependents, CaError> {
        let _lock = self.store.lock_shared()?;
        self.count_dependents(&self.read()?, id, seconds(SystemTime::now()))
    }

    fn count_dependents(&self, state: &CaState, id: &str, now: u64) -> Result<Dependents, CaError> {
        let mut under = BTreeMap::<String, u64>::new();
        let mut renewed = BTreeSet::new();
        issued::each(&self.store, now, |svid| {
            if svid.issuer == id {
                let until = under.entry(svid.id).or_default();
                *until = svid.not_after.max(*until);
            } else {
                renewed.insert(svid.id);
            }
        })?;
        under.retain(|id, _| !renewed.contains(id) && !state.banned.contains(id));
        let until = under.values().copied().max().unwrap_or(0);
        Ok(Dependents { identities: under.into_keys().collect(), until })
    }

    /// Bans an identity: it gets nothing any more, and what it has is revoked. Returns how many
    /// SVIDs that were.
    ///
    /// # Errors
    /// If it is of another trust domain or has no path, or the state cannot be written.
    pub fn ban(&self, id: &SpiffeId) -> Result<usize, CaError> {
        let why = match (id.trust_domain() == &self.trust_domain, id.path().is_empty()) {
            (false, _) => Some("it belongs to another trust domain; ban it there"),
            (true, true) => Some("it names the trust domain itself; ban each workload"),
            (true, false) => None,
        };
        if let Some(why) = why {
            let trust_domain = self.trust_domain.clone();
            return Err(CaError::NotOurs { trust_domain, id: id.clone(), why });
        }
        self.step(|state, now| {
            if state.banned.len() >= MOST_BANS {
                let why = format!("has {MOST_BANS} bans already: lift some, or use policies");
                return Err(CaError::file(self.store.path(STATE), why));
            }
            state.banned.insert(id.to_string());
            let before = state.revoked.len();
            // Those that were revoked before keep their date.
            let known = state.revoked.iter().map(|r| (r.issuer.clone(), r.serial.clone()));
            let mut known: BTreeSet<_> = known.collect();
            let mut left = MOST_REVOKED.saturating_sub(before);
            issued::each(&self.store, now, |svid| {
                if svid.id != id.as_str() || left == 0 {
                    return;
                }
                let (issuer, serial, not_after) = (svid.issuer, svid.serial, svid.not_after);
                if known.insert((issuer.clone(), serial.clone())) {
                    state.revoked.insert(RevokedSerial { issuer, serial, not_after, at: now });
                    left -= 1;
                }
            })?;
            if left == 0 {
                tracing::warn!(
                    target: "ca", identity = %id, revoked = MOST_REVOKED,
                    "the CRL is full: the ban applies, but peers that know only the CRL accept its \
                     other SVIDs until they expire"
                );
            }
            Ok(state.revoked.len() - before)
        })
    }

    /// Lifts a ban: the identity gets a new SVID; revoked ones stay revoked. Says whether it was
    /// banned.
    ///
    /// # Errors
    /// If the state cannot be written.
    pub fn unban(&self, id: &SpiffeId) -> Result<bool, CaError> {
        self.step(|state, _| Ok(state.banned.remove(id.as_str())))
    }

    fn read(&self) -> Result<CaState, CaError> {
        let state = self.store.read()?;
        state.ok_or_else(|| {
            CaError::file(self.store.path(STATE), "is missing; restore it from a backup")
        })
    }

    /// Reads, changes and writes, with nobody in between.
    fn step<T>(
        &self,
        change: impl FnOnce(&mut CaState, u64) -> Result<T, CaError>,
    ) -> Result<T, CaError> {
        let lock = self.store.lock()?;
        let mut state = self.read()?;
        let before = state.clone();
        let done = change(&mut state, seconds(SystemTime::now()))?;
        self.finish(&lock, before, state)?;
        Ok(done)
    }

    fn finish(&self, lock: &Lock, before: CaState, state: CaState) -> Result<(), CaError> {
        maintenance::write(&self.store, lock, &self.trust_domain, &before, state)
    }
}

/// The trust domain that the root of a directory without a state names.
fn root_domain(store: &Store) -> Result<String, CaError> {
    let path = store.path(ROOT);
    let root = read_certificate(&path)?;
    let (_, cert) = X509Certificate::from_der(&root)
        .map_err(|e| CaError::file(&path, format!("is not an X.509 certificate: {e}")))?;
    let named = domain_of(&cert);
    let name = named.as_deref().and_then(|uri| uri.strip_prefix("spiffe://"));
    name.map(ToOwned::to_owned).ok_or_else(|| {
        CaError::file(&path, "names no trust domain; start `adit run` on the directory once")
    })
}
