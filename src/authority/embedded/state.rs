//! What `authorities.json` says: the authorities and what each is used for, bans, revoked serial
//! numbers. Which step may follow which is decided here (pure); [`super::store`] keeps it on disk.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::identity::counted;

/// The version that this adit writes, and the only one it reads.
pub(super) const VERSION: u32 = 1;
/// More authorities of one kind than this are a mistake.
const MOST: usize = 16;

/// What an authority is used for. Revoked ones are gone from the file.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthorityStatus {
    /// Trusted, so that everybody knows it in time; signs nothing yet.
    Prepared,
    /// Signs. There is one.
    Active,
    /// Has a successor; still trusted, signs nothing more.
    Old,
    /// As old, and about to be revoked.
    Tainted,
}

/// What an authority signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuthorityKind {
    /// X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

impl fmt::Display for AuthorityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
        })
    }
}

/// One authority; times in seconds since 1970.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authority {
    /// Names it; for JWT also the `kid`.
    pub id: String,
    /// What it is used for.
    pub status: AuthorityStatus,
    /// The file with its certificate; none for JWT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The file with its private key.
    pub key: String,
    /// Start of its lifetime.
    pub not_before: u64,
    /// End of its lifetime.
    pub not_after: u64,
    /// When it became what it is.
    pub since: u64,
}

/// A revoked X.509-SVID, kept until a day after it expired.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RevokedSerial {
    /// Which authority issued it.
    pub(super) issuer: String,
    /// Lower-case hex.
    pub(super) serial: String,
    pub(super) not_after: u64,
    /// When it was revoked.
    pub(super) at: u64,
}

/// The whole file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CaState {
    pub(super) version: u32,
    pub(super) trust_domain: String,
    /// `spiffe_sequence`: grows whenever the published authorities change.
    pub(super) sequence: u64,
    /// What was last published of an upstream authority; none where the root is our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<String>,
    pub(super) x509: Vec<Authority>,
    pub(super) jwt: Vec<Authority>,
    pub(super) crl_number: u64,
    #[serde(default)]
    pub(super) banned: BTreeSet<String>,
    #[serde(default)]
    pub(super) revoked: BTreeSet<RevokedSerial>,
}

/// Why a step of an authority's life must not follow.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StepError {
    /// Only one successor at a time.
    #[error("{0} is already prepared: activate it, or revoke it by its ID and prepare another")]
    AlreadyPrepared(String),
    /// Nothing to activate.
    #[error("no authority is prepared: `adit ca prepare` first, and give peers time to see it")]
    NothingPrepared,
    /// Peers have not seen it.
    #[error(
        "{id} was prepared only {} ago and peers may not know it yet: wait at least \
         {} (`adit ca rotate` does)",
        crate::identity::length(*ago),
        crate::identity::length(*least)
    )]
    TooFresh {
        /// Which.
        id: String,
        /// Since when.
        ago: u64,
        /// How long it takes.
        least: u64,
    },
    /// There is only the active one.
    #[error(
        "there is no authority to taint: the active one has no successor; `adit ca prepare`, \
         then `adit ca activate`, then taint the old one"
    )]
    NothingOld,
    /// All SVIDs would lose their trust.
    #[error(
        "{0} is active: without it no SVID is valid; `adit ca prepare` and `adit ca activate` a \
         successor, then taint it (`adit ca rotate` does all that)"
    )]
    StillActive(String),
    /// Not the order.
    #[error("{0} is not tainted: `adit ca taint` it first, and wait until SVIDs are renewed")]
    NotTainted(String),
    /// Somebody still depends on it.
    #[error(
        "{id} is the only authority of the SVIDs of {}, such as {example}, for up to {}: wait, or \
         revoke with --force if its key is compromised",
        counted(*identities, "identity"), crate::identity::length(*seconds)
    )]
    InUse {
        /// Which.
        id: String,
        /// How many.
        identities: usize,
        /// One of them.
        example: String,
        /// Until the last of these SVIDs expires.
        seconds: u64,
    },
    /// Nothing to revoke.
    #[error("there is no tainted authority to revoke: `adit ca taint` the old one first")]
    NothingTainted,
    /// More than one could be meant.
    #[error("there are several authorities; name one of them: {}", .0.join(", "))]
    Several(Vec<String>),
    /// No such authority.
    #[error("there is no authority {0}; `adit ca show` lists them")]
    Unknown(String),
    /// Too many.
    #[error("there are {MOST} authorities already: revoke the old ones first")]
    TooMany,
    /// Somebody else's to rotate.
    #[error(
        "X.509-SVIDs are signed by the intermediate that `upstream` in the mesh file names: put \
         new files there; adit loads them once they match"
    )]
    Upstream,
}

impl CaState {
    pub(super) fn new(trust_domain: &str) -> Self {
        Self {
            version: VERSION,
            trust_domain: trust_domain.to_owned(),
            sequence: 0,
            upstream: None,
            x509: Vec::new(),
            jwt: Vec::new(),
            crl_number: 0,
            banned: BTreeSet::new(),
            revoked: BTreeSet::new(),
        }
    }

    pub(super) fn of(&self, kind: AuthorityKind) -> &[Authority] {
        match kind {
            AuthorityKind::X509 => &self.x509,
            AuthorityKind::Jwt => &self.jwt,
        }
    }

    fn of_mut(&mut self, kind: AuthorityKind) -> &mut Vec<Authority> {
        match kind {
            AuthorityKind::X509 => &mut self.x509,
            AuthorityKind::Jwt => &mut self.jwt,
        }
    }

    pub(super) fn with(&self, kind: AuthorityKind, status: AuthorityStatus) -> Option<&Authority> {
        self.of(kind).iter().find(|a| a.status == status)
    }

    /// Whether a successor may be prepared.
    pub(super) fn may_prepare(&self, kind: AuthorityKind) -> Result<(), StepError> {
        if kind == AuthorityKind::X509 && self.upstream.is_some() {
            return Err(StepError::Upstream);
        }
        match self.with(kind, AuthorityStatus::Prepared) {
            Some(already) => Err(StepError::AlreadyPrepared(already.id.clone())),
            None if self.of(kind).len() >= MOST => Err(StepError::TooMany),
            None => Ok(()),
        }
    }

    /// Publishes an authority, as what it says it is.
    pub(super) fn publish(&mut self, kind: AuthorityKind, authority: Authority) {
        self.of_mut(kind).push(authority);
        self.sequence += 1;
    }

    /// The prepared authority signs from now on; the active one becomes old.
    pub(super) fn activate(&mut self, kind: AuthorityKind, now: u64) -> Result<String, StepError> {
        let next = self.with(kind, AuthorityStatus::Prepared).ok_or(StepError::NothingPrepared)?;
        let next = next.id.clone();
        for authority in self.of_mut(kind) {
            let status = match authority.status {
                _ if authority.id == next => AuthorityStatus::Active,
                AuthorityStatus::Active => AuthorityStatus::Old,
                other => other,
            };
            if status != authority.status {
                (authority.status, authority.since) = (status, now);
            }
        }
        // Who signs is published first: the document is another.
        self.sequence += 1;
        Ok(next)
    }

    /// Marks an old authority; the only one, unless `id` names it.
    pub(super) fn taint(
        &mut self,
        kind: AuthorityKind,
        id: Option<&str>,
        now: u64,
    ) -> Result<String, StepError> {
        let id = self.choose(kind, id, AuthorityStatus::Old, StepError::NothingOld)?;
        let authority = self.of_mut(kind).iter_mut().find(|a| a.id == id);
        let authority = authority.ok_or_else(|| StepError::Unknown(id.clone()))?;
        match authority.status {
            AuthorityStatus::Active => return Err(StepError::StillActive(id)),
            AuthorityStatus::Tainted => return Ok(id),
            AuthorityStatus::Old | AuthorityStatus::Prepared => {}
        }
        (authority.status, authority.since) = (AuthorityStatus::Tainted, now);
        Ok(id)
    }

    /// Which authority `revoke` would remove: the only tainted one, or the one that `id` names if
    /// it is tainted or never signed.
    pub(super) fn may_revoke(
        &self,
        kind: AuthorityKind,
        id: Option<&str>,
    ) -> Result<String, StepError> {
        let active = self.with(kind, AuthorityStatus::Active).map(|a| a.id.clone());
        let nothing = match active {
            Some(active) if self.of(kind).len() == 1 => StepError::StillActive(active),
            _ => match self.with(kind, AuthorityStatus::Old) {
                Some(old) => StepError::NotTainted(old.id.clone()),
                None => StepError::NothingTainted,
            },
        };
        let id = self.choose(kind, id, AuthorityStatus::Tainted, nothing)?;
        let authority = self.of(kind).iter().find(|a| a.id == id);
        match authority.map(|a| a.status) {
            None => Err(StepError::Unknown(id)),
            Some(AuthorityStatus::Active) => Err(StepError::StillActive(id)),
            Some(AuthorityStatus::Old) => Err(StepError::NotTainted(id)),
            Some(AuthorityStatus::Tainted | AuthorityStatus::Prepared) => Ok(id),
        }
    }

    /// Takes an authority out of the bundle.
    pub(super) fn remove(&mut self, kind: AuthorityKind, id: &str) {
        let before = self.of(kind).len();
        self.of_mut(kind).retain(|a| a.id != id);
        if self.of(kind).len() != before {
            self.sequence += 1;
            self.revoked.retain(|r| r.issuer != id);
        }
    }

    fn choose(
        &self,
        kind: AuthorityKind,
        id: Option<&str>,
        status: AuthorityStatus,
        none: StepError,
    ) -> Result<String, StepError> {
        if let Some(id) = id {
            return Ok(id.to_owned());
        }
        if kind == AuthorityKind::X509
            && self.upstream.is_some()
            && self.with(kind, status).is_none()
        {
            return Err(StepError::Upstream);
        }
        let mut all = self.of(kind).iter().filter(|a| a.status == status).map(|a| a.id.clone());
        match (all.next(), all.next()) {
            (None, _) => Err(none),
            (Some(only), None) => Ok(only),
            (Some(first), Some(second)) => {
                Err(StepError::Several([first, second].into_iter().chain(all).collect()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(id: &str, status: AuthorityStatus) -> Authority {
        let key = format!("{id}-key.pem");
        let (not_before, not_after) = (0, 1000);
        Authority { id: id.into(), status, certificate: None, key, not_before, not_after, since: 0 }
    }

    fn statuses(state: &CaState) -> Vec<(&str, AuthorityStatus)> {
        state.x509.iter().map(|a| (a.id.as_str(), a.status)).collect()
    }

    #[test]
    fn an_authority_is_prepared_activated_tainted_and_revoked() {
        let mut state = CaState::new("td");
        state.publish(AuthorityKind::X509, authority("a", AuthorityStatus::Active));
        state.publish(AuthorityKind::X509, authority("b", AuthorityStatus::Prepared));
        assert_eq!(state.activate(AuthorityKind::X509, 10).unwrap(), "b");
        assert_eq!(statuses(&state), [("a", AuthorityStatus::Old), ("b", AuthorityStatus::Active)]);
        assert_eq!(state.taint(AuthorityKind::X509, None, 20).unwrap(), "a");
        let before = state.sequence;
        assert_eq!(state.may_revoke(AuthorityKind::X509, None).unwrap(), "a");
        state.remove(AuthorityKind::X509, "a");
        assert_eq!(statuses(&state), [("b", AuthorityStatus::Active)]);
        assert_eq!(state.sequence, before + 1);
        assert_eq!((state.x509[0].since, state.jwt.len()), (10, 0));
    }

    #[test]
    fn steps_out_of_order_are_refused_with_what_to_do() {
        let mut state = CaState::new("td");
        state.publish(AuthorityKind::X509, authority("a", AuthorityStatus::Active));
        let say = |e: StepError| e.to_string();
        assert!(
            say(state.activate(AuthorityKind::X509, 1).unwrap_err()).contains("`adit ca prepare`")
        );
        assert!(
            say(state.taint(AuthorityKind::X509, None, 1).unwrap_err()).contains("no successor")
        );
        for id in [None, Some("a")] {
            let refused = say(state.may_revoke(AuthorityKind::X509, id).unwrap_err());
            assert!(refused.contains("a is active"), "{refused}");
        }
        assert_eq!(
            state.taint(AuthorityKind::X509, Some("a"), 1),
            Err(StepError::StillActive("a".into()))
        );
        assert_eq!(
            state.may_revoke(AuthorityKind::X509, Some("z")),
            Err(StepError::Unknown("z".into()))
        );
        state.publish(AuthorityKind::X509, authority("b", AuthorityStatus::Prepared));
        assert_eq!(
            state.may_prepare(AuthorityKind::X509),
            Err(StepError::AlreadyPrepared("b".into()))
        );
        assert_eq!(
            state.may_revoke(AuthorityKind::X509, Some("b")).unwrap(),
            "b",
            "it never signed"
        );
        state.activate(AuthorityKind::X509, 2).unwrap();
        let refused = state.may_revoke(AuthorityKind::X509, None);
        assert_eq!(refused, Err(StepError::NotTainted("a".into())));
        state.upstream = Some("x".into());
        assert_eq!(state.may_prepare(AuthorityKind::X509), Err(StepError::Upstream));
        assert!(state.may_prepare(AuthorityKind::Jwt).is_ok());
    }
}
