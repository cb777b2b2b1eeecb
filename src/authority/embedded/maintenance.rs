//! What is done to a CA's directory with nobody's help: made ready at the first use, authorities
//! followed by their successors ([`super::plan`]), CRLs signed, the record of SVIDs pruned. All
//! of it under the exclusive lock, and from any state that a crash can leave.

use std::{sync::Arc, time::SystemTime};

use super::{
    crl,
    error::CaError,
    plan::{self, Due},
    published,
    signer::{self, Signer, adopt, create_jwt, create_x509, load_x509, seconds},
    state::{AuthorityKind, AuthorityStatus, CaState},
    store::{KEY, Lock, ROOT, STATE, Store},
    upstream::{Upstream, UpstreamCredentials},
};
use crate::identity::TrustDomain;

/// How long a revoked serial number outlives its certificate: it must be on a CRL that is issued
/// after that (RFC 5280 §3.3), and a clock that was set forward by mistake must not free it.
const REVOKED_AFTER: u64 = 86_400;

/// What signs X.509-SVIDs.
#[derive(Clone, Copy)]
pub(super) enum SigningSource<'a> {
    /// An authority of the directory.
    Local,
    /// An intermediate from elsewhere.
    Upstream(&'a Upstream),
    /// An intermediate that only the running processes know.
    Elsewhere,
}

impl SigningSource<'_> {
    /// As it was.
    pub(super) fn like(state: Option<&CaState>) -> Self {
        match state {
            Some(state) if state.upstream.is_some() => Self::Elsewhere,
            _ => Self::Local,
        }
    }
}

/// Makes the directory complete: a state, an active authority of each kind, CRLs.
pub(super) fn initialize(
    store: &Store,
    lock: &Lock,
    trust_domain: &TrustDomain,
    source: SigningSource<'_>,
) -> Result<(), CaError> {
    let found = match source {
        SigningSource::Upstream(upstream) => Some(upstream.load(trust_domain)?),
        SigningSource::Local | SigningSource::Elsewhere => None,
    };
    let mut state = match store.read()? {
        Some(state) => state,
        None => first(store, lock, trust_domain)?,
    };
    check_domain(store, &state, trust_domain)?;
    let before = state.clone();
    let now = seconds(SystemTime::now());
    match (source, &found) {
        (SigningSource::Upstream(_), Some(found)) => under_upstream(&mut state, found),
        (SigningSource::Local, _) => under_own_root(store, &mut state, trust_domain, now)?,
        _ => {}
    }
    if state.with(AuthorityKind::Jwt, AuthorityStatus::Active).is_none()
        && state.activate(AuthorityKind::Jwt, now).is_err()
    {
        let authority = create_jwt(store, AuthorityStatus::Active)?;
        state.publish(AuthorityKind::Jwt, authority);
    }
    write_with(store, lock, trust_domain, &before, state, found.as_ref())
}

/// What is due by the clock; `found` is what an upstream's files say now.
pub(super) fn maintain(
    store: &Store,
    lock: &Lock,
    trust_domain: &TrustDomain,
    found: Option<&UpstreamCredentials>,
) -> Result<(), CaError> {
    let state = store.read()?;
    let mut state = state
        .ok_or_else(|| CaError::file(store.path(STATE), "is missing; restore it from a backup"))?;
    let before = state.clone();
    let now = seconds(SystemTime::now());
    if let Some(found) = found {
        under_upstream(&mut state, found);
    }
    for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
        // At most: prepare, activate, remove what expired.
        for _ in 0..4 {
            match plan::due(kind, state.of(kind), now) {
                Some(Due::Prepare) => {
                    let id = prepare(store, &mut state, kind, trust_domain)?;
                    tracing::info!(%kind, id, "prepared the next authority");
                }
                Some(Due::Activate) => {
                    let id = state.activate(kind, now)?;
                    tracing::info!(%kind, id, "activated the next authority");
                }
                Some(Due::Remove(id)) => {
                    state.remove(kind, &id);
                    tracing::info!(%kind, id, "removed an expired authority");
                }
                None => break,
            }
        }
    }
    write_with(store, lock, trust_domain, &before, state, found)
}

/// Makes an authority's files and publishes it in `state`.
pub(super) fn prepare(
    store: &Store,
    state: &mut CaState,
    kind: AuthorityKind,
    trust_domain: &TrustDomain,
) -> Result<String, CaError> {
    state.may_prepare(kind)?;
    let authority = match kind {
        AuthorityKind::X509 => create_x509(store, trust_domain, None, AuthorityStatus::Prepared)?,
        AuthorityKind::Jwt => create_jwt(store, AuthorityStatus::Prepared)?,
    };
    let id = authority.id.clone();
    state.publish(kind, authority);
    Ok(id)
}

/// Writes a changed state, and the CRLs if they are behind it.
pub(super) fn write(
    store: &Store,
    lock: &Lock,
    trust_domain: &TrustDomain,
    before: &CaState,
    state: CaState,
) -> Result<(), CaError> {
    write_with(store, lock, trust_domain, before, state, None)
}

fn write_with(
    store: &Store,
    lock: &Lock,
    trust_domain: &TrustDomain,
    before: &CaState,
    mut state: CaState,
    found: Option<&UpstreamCredentials>,
) -> Result<(), CaError> {
    let now = seconds(SystemTime::now());
    state.revoked.retain(|r| r.not_after.saturating_add(REVOKED_AFTER) > now);
    let ids = |s: &CaState| s.x509.iter().map(|a| a.id.clone()).collect::<Vec<_>>();
    let differs = before.revoked != state.revoked
        || ids(before) != ids(&state)
        || before.upstream != state.upstream;
    // Without the intermediate its CRL cannot be signed, nor its root published: a running process
    // will, within a second.
    let can_sign = state.upstream.is_none() || found.is_some();
    if differs || (can_sign && crl::aged(store)) {
        state.crl_number += 1;
    }
    if state != *before {
        store.write(lock, &state)?;
    }
    if can_sign && !crl::current(store, state.crl_number) {
        let signers = signers(store, trust_domain, &state, found.map(|f| Arc::clone(&f.signer)));
        crl::write(store, lock, &state, &signers)?;
    }
    let roots = found.map_or(&[][..], |f| &f.roots);
    // With a certificate missing the file stays as it is: whoever loads the authorities says so.
    if can_sign
        && let Ok(authorities) = published::authorities(store, &state, roots)
        && !published::current(store, &authorities)
    {
        published::write(store, lock, &authorities)?;
    }
    store.sweep(lock, &state);
    Ok(())
}

/// All that can sign a CRL, the active one first.
fn signers(
    store: &Store,
    trust_domain: &TrustDomain,
    state: &CaState,
    upstream: Option<Arc<Signer>>,
) -> Vec<Arc<Signer>> {
    let mut local: Vec<_> = state.x509.iter().collect();
    local.sort_by_key(|a| a.status != AuthorityStatus::Active);
    let loaded = local.into_iter().filter_map(|authority| {
        load_x509(store, authority, trust_domain)
            .inspect_err(|error| {
                tracing::warn!(id = authority.id, %error, "this authority cannot sign a CRL");
            })
            .ok()
            .map(Arc::new)
    });
    upstream.into_iter().chain(loaded).collect()
}

/// The state of a directory that has none: of an older adit, or empty.
fn first(store: &Store, lock: &Lock, trust_domain: &TrustDomain) -> Result<CaState, CaError> {
    let mut state = CaState::new(trust_domain.as_str());
    if store.path(ROOT).exists() || store.path(KEY).exists() {
        // Both, or the operator took one away.
        state.publish(AuthorityKind::X509, adopt(store, trust_domain)?);
    }
    // Before any key is made: what a crash leaves from here on is known as a leftover.
    store.write(lock, &state)?;
    Ok(state)
}

fn check_domain(store: &Store, state: &CaState, own: &TrustDomain) -> Result<(), CaError> {
    if state.trust_domain == own.as_str() {
        return Ok(());
    }
    let other = &state.trust_domain;
    let why = format!("is the root of spiffe://{other}, but the mesh file says spiffe://{own}");
    Err(CaError::file(store.path(STATE), why))
}

/// The operator's intermediate signs, and what signed before is trusted until it is revoked.
fn under_upstream(state: &mut CaState, found: &UpstreamCredentials) {
    for authority in &mut state.x509 {
        if matches!(authority.status, AuthorityStatus::Active | AuthorityStatus::Prepared) {
            authority.status = AuthorityStatus::Old;
        }
    }
    let digest = found.digest();
    if state.upstream.as_ref() != Some(&digest) {
        state.upstream = Some(digest);
        state.sequence += 1;
    }
}

fn under_own_root(
    store: &Store,
    state: &mut CaState,
    trust_domain: &TrustDomain,
    now: u64,
) -> Result<(), CaError> {
    if state.upstream.take().is_some() {
        state.sequence += 1;
    }
    // Away so long that the active one expired: its successor is known everywhere.
    if plan::due(AuthorityKind::X509, &state.x509, now) == Some(Due::Activate) {
        state.activate(AuthorityKind::X509, now)?;
    }
    if state.with(AuthorityKind::X509, AuthorityStatus::Active).is_some()
        || state.activate(AuthorityKind::X509, now).is_ok()
    {
        return Ok(());
    }
    let authority = if !state.x509.is_empty() {
        create_x509(store, trust_domain, None, AuthorityStatus::Active)?
    } else if store.path(ROOT).exists() && store.path(KEY).exists() {
        // A crash at the very first start, behind the key and the certificate.
        signer::adopt(store, trust_domain)?
    } else {
        let made = create_x509(store, trust_domain, Some((ROOT, KEY)), AuthorityStatus::Active)?;
        tracing::info!(dir = %store.dir.display(), %trust_domain, "made a new CA root");
        made
    };
    state.publish(AuthorityKind::X509, authority);
    Ok(())
}
