//! What a process has in memory of a CA's directory: read whole, checked whole, swapped whole.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    crl,
    error::CaError,
    plan::REFRESH_HINT,
    published,
    signer::{JwtKey, Signer, load_jwt, load_x509},
    state::{AuthorityKind, AuthorityStatus, CaState},
    store::{STATE, Store},
    upstream::{Upstream, UpstreamCredentials},
};
use crate::{
    identity::{JwtAuthority, SpiffeId, TrustBundle, TrustDomain},
    lifecycle::WatchedFile,
};

/// The directory as it was when read.
pub(super) struct Loaded {
    pub(super) state: CaState,
    pub(super) signer: Arc<Signer>,
    /// What was last found right of an upstream's files.
    pub(super) found: Option<UpstreamCredentials>,
    pub(super) jwt: JwtKey,
    pub(super) bundle: TrustBundle,
    pub(super) banned: Arc<BTreeSet<SpiffeId>>,
    /// Whether `bundle.pem` or the CRLs are not those of the state.
    pub(super) files_behind: bool,
    files: WatchedFile,
}

impl Loaded {
    /// Reads it all. Needs a lock of the directory. Of an upstream's files `last` serves on until
    /// they verify together.
    pub(super) fn read(
        store: &Store,
        trust_domain: &TrustDomain,
        upstream: Option<&Upstream>,
        last: Option<&Self>,
    ) -> Result<Self, CaError> {
        // Before anything is read: a change in between is then seen as one.
        let files = files(store, upstream);
        let missing = |what: &str| CaError::file(store.path(STATE), what.to_owned());
        let state = store.read()?.ok_or_else(|| missing("is missing; restore it from a backup"))?;
        let found = match upstream.map(|u| u.load(trust_domain)) {
            Some(Err(error)) => {
                let last = last.and_then(|l| l.found.clone()).ok_or_else(|| error.clone())?;
                tracing::warn!(
                    %error,
                    "the upstream's files were rejected; keeping the previous ones"
                );
                Some(last)
            }
            Some(Ok(found)) => Some(found),
            None => None,
        };
        let signer = match &found {
            Some(found) => Arc::clone(&found.signer),
            None => {
                let active = state.with(AuthorityKind::X509, AuthorityStatus::Active);
                let active = active.ok_or_else(|| missing("has no active X.509 authority"))?;
                Arc::new(load_x509(store, active, trust_domain)?)
            }
        };
        let roots = found.as_ref().map_or(&[][..], |found| &found.roots);
        let authorities = published::authorities(store, &state, roots)?;
        let mut files_behind = !published::current(store, &authorities);
        let active = state.with(AuthorityKind::Jwt, AuthorityStatus::Active);
        let active = active.ok_or_else(|| missing("has no active JWT authority"))?;
        let jwt = load_jwt(store, active)?;
        let mut bundle = TrustBundle::new(trust_domain.clone(), authorities);
        bundle.jwt_authorities = jwt_authorities(store, &state, &jwt)?;
        bundle.crls = crl::read(store)?;
        bundle.sequence = Some(state.sequence);
        bundle.refresh_hint = Some(REFRESH_HINT);
        let banned = state.banned.iter().map(|id| id.parse()).collect::<Result<_, _>>();
        let banned =
            banned.map_err(|e| missing(&format!("bans a name that is not a SPIFFE ID: {e}")))?;
        files_behind |= !crl::current(store, state.crl_number);
        let banned = Arc::new(banned);
        Ok(Self { state, signer, found, jwt, bundle, banned, files_behind, files })
    }

    /// Whether the files are still those that were read.
    pub(super) fn is_current(&self) -> bool {
        !self.files.has_changed()
    }
}

fn jwt_authorities(
    store: &Store,
    state: &CaState,
    active: &JwtKey,
) -> Result<Vec<JwtAuthority>, CaError> {
    let own = &active.authority;
    let others = state.jwt.iter().filter(|a| *a.id != *own.key_id);
    let others = others.map(|a| load_jwt(store, a).map(|key| key.authority));
    std::iter::once(Ok(own.clone())).chain(others).collect()
}

fn files(store: &Store, upstream: Option<&Upstream>) -> WatchedFile {
    let own = [STATE, crl::FILE, published::FILE].map(|name| store.path(name));
    let theirs = upstream.into_iter().flat_map(|u| u.files().map(Clone::clone));
    WatchedFile::of_all(own.into_iter().chain(theirs).collect())
}
