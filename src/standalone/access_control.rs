//! Who a running service admits: what its configuration names, and what the policies say whose
//! files it names. Those are read again when they change.

use std::{
    collections::BTreeSet,
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{Access, Rego, ServiceConfig};
use crate::{
    identity::{PeerCert, SpiffeId},
    observe::{Refusal, Refused, conn::Flow},
    policy::{self, Rules},
};

/// Identities that may not be there, whatever they show.
pub type Banned = Arc<BTreeSet<SpiffeId>>;

/// What is asked of a peer that has proven its certificate, with the policies as they are now.
pub struct AccessControl {
    named: Access,
    policies: Option<Policies>,
    rego: Option<Arc<Rego>>,
    bans: Option<BanList>,
}

/// The banned identities of one file, replaced when it changes.
pub struct BanList {
    file: PathBuf,
    list: watch::Sender<Banned>,
    /// Whether what was read last is in use.
    pub refusal: Refusal,
}

impl BanList {
    /// Where they are from.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// From now on these: open connections of who is on the list are closed.
    pub fn replace(&self, banned: Banned) {
        self.list.send_if_modified(|list| {
            let other = *list != banned;
            *list = banned;
            other
        });
    }
}

/// Istio policies of one file, replaced when it changes.
pub struct Policies {
    file: PathBuf,
    rules: ArcSwap<Rules>,
    /// Whether what was read last is in use.
    pub refusal: Refusal,
}

impl Policies {
    /// Those of `file`, as `load` reads it. All of them apply.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn open<E>(
        file: &Path,
        load: impl FnOnce(&Path) -> Result<Arc<Rules>, E>,
    ) -> Result<Self, E> {
        let rules = ArcSwap::new(load(file)?);
        Ok(Self { file: file.to_owned(), rules, refusal: Refusal::default() })
    }

    /// Where they are from.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What is in force.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// From now on these.
    pub fn replace(&self, rules: Arc<Rules>) {
        self.rules.store(rules);
    }
}

impl AccessControl {
    /// That of a service; `load` reads the file of its policies, `load_bans` that of its bans.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn open<E: Display, F: Display>(
        service: &ServiceConfig,
        load: impl FnOnce(&Path) -> Result<Arc<Rules>, E>,
        load_bans: impl FnOnce(&Path) -> Result<Banned, F>,
    ) -> Result<Self, String> {
        let mut named = service.access.clone();
        // Whose key is pinned is admitted.
        named.all |= service.admits_by_pin();
        let policies = named.policies.as_deref().map(|file| Policies::open(file, load));
        let policies = policies.transpose().map_err(|e| e.to_string())?;
        let rego = named.rego.as_ref().map(Rego::open).transpose()?.map(Arc::new);
        let bans = named.bans.clone().map(|file| {
            let list = watch::Sender::new(load_bans(&file).map_err(|e| e.to_string())?);
            Ok::<_, String>(BanList { file, list, refusal: Refusal::default() })
        });
        Ok(Self { named, policies, rego, bans: bans.transpose()? })
    }

    /// The banned identities.
    #[must_use]
    pub fn bans(&self) -> Option<&BanList> {
        self.bans.as_ref()
    }

    /// Who is banned now and after each change; `None` if nobody ever is.
    #[must_use]
    pub fn watch_banned(&self) -> Option<watch::Receiver<Banned>> {
        self.bans.as_ref().map(|bans| bans.list.subscribe())
    }

    /// Its Istio policies.
    #[must_use]
    pub fn policies(&self) -> Option<&Policies> {
        self.policies.as_ref()
    }

    /// Its Rego policy.
    #[must_use]
    pub fn rego(&self) -> Option<&Rego> {
        self.rego.as_deref()
    }

    /// Why what is in its files is not what is in use, where that is so.
    pub fn refused(&self) -> impl Iterator<Item = Refused> {
        let policies = self.policies.as_ref().map(|policies| &policies.refusal);
        let rego = self.rego.as_ref().map(|rego| &rego.refusal);
        let bans = self.bans.as_ref().map(|bans| &bans.refusal);
        policies.into_iter().chain(rego).chain(bans).filter_map(Refusal::get)
    }

    fn rules(&self) -> Option<Arc<Rules>> {
        self.policies.as_ref().map(|policies| policies.rules())
    }

    /// The rule that admits the peer.
    ///
    /// # Errors
    /// Why none does.
    ///
    /// # Cancel safety
    /// Dropping the future leaves a Rego policy to come to its end by itself, within its time.
    pub async fn admit(&self, peer: &Arc<PeerCert>, flow: &Flow) -> Result<Arc<str>, String> {
        let mut why = format!("{} is named by no rule", peer.name());
        if let Some(fault) = peer.id_fault.as_deref().or(peer.spiffe_fault.as_deref()) {
            why = format!("{why}; its SPIFFE ID does not count: {fault}");
        }
        let rules = self.rules();
        // Several names prove no ID, and each may be denied.
        for id in peer.shown_ids().filter(|id| flow.peer_id.as_ref() != Some(id)) {
            let as_shown = Flow { peer_id: Some(id), ..flow.clone() };
            let verdict = rules.as_ref().map(|rules| policy::authorize(rules, &as_shown));
            if let Some(verdict) = verdict.filter(|v| !v.allowed() && v.policy().is_some()) {
                return Err(verdict.to_string());
            }
        }
        let verdict = rules.as_ref().map(|rules| policy::authorize(rules, flow));
        let allowed = match &verdict {
            Some(verdict) => match (verdict.allowed(), verdict.policy()) {
                (true, by) => by.cloned(),
                (false, Some(_)) => return Err(verdict.to_string()),
                (false, None) => {
                    why = verdict.to_string();
                    None
                }
            },
            None => None,
        };
        if let Some(rule) = by_name(&self.named, peer) {
            return Ok(rule.into());
        }
        // A policy may have gone by the ID.
        if let Some(policy) = allowed.filter(|_| peer.id_fault.is_none()) {
            return Ok(policy);
        }
        if let Some(rego) = &self.rego {
            match rego.allows(Arc::clone(peer)).await {
                Ok(true) => return Ok("policy".into()),
                Ok(false) => why = format!("the policy does not allow {}", peer.name()),
                Err(error) => why = format!("the policy failed: {error}"),
            }
        }
        Err(why)
    }

    /// What dry-run policies would have done.
    #[must_use]
    pub fn dry_run(&self, flow: &Flow) -> Vec<String> {
        let rules = self.rules();
        rules.map_or_else(Vec::new, |r| policy::authorize(&r, flow).dry_run().to_vec())
    }
}

/// The rule by which a name of the peer is enough.
fn by_name(named: &Access, peer: &PeerCert) -> Option<&'static str> {
    let any = |wanted: &[String], has: &[String]| wanted.iter().any(|w| has.contains(w));
    let id = peer.id.as_ref().filter(|_| peer.id_fault.is_none());
    if named.all {
        Some("all")
    } else if peer.cn.as_ref().is_some_and(|cn| named.cn.contains(cn)) {
        Some("cn")
    } else if any(&named.ou, &peer.ous) {
        Some("ou")
    } else if any(&named.dns, &peer.dns) {
        Some("dns")
    } else if named.uri.iter().any(|p| peer.proven_uris().any(|uri| p.matches(uri))) {
        Some("uri")
    } else if named.ip.iter().any(|ip| peer.ips.contains(&ip.to_canonical())) {
        Some("ip")
    } else if id.is_some_and(|id| named.ids.contains(id)) {
        Some("id")
    } else if id.is_some_and(|id| named.trust_domains.contains(id.trust_domain())) {
        Some("trust-domain")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ID that breaks a rule for SVIDs is no ID to go by, whoever names it; it can be denied.
    #[tokio::test]
    async fn an_id_that_proves_nobody_is_admitted_by_no_name_and_no_policy() {
        use crate::{
            identity::SpiffeId,
            observe::conn::{Direction, PeerAddr},
            policy::{Action, Policy, Rule, Scope},
        };
        let id: SpiffeId = "spiffe://td/app".parse().unwrap();
        let peer = |fault: Option<&str>| {
            let (id, id_fault) = (Some(id.clone()), fault.map(ToOwned::to_owned));
            Arc::new(PeerCert { id, id_fault, ..PeerCert::default() })
        };
        let policies = |action| {
            let (name, namespace, rules) = ("p".into(), "n".into(), vec![Rule::default()]);
            let scope = Scope::Global;
            let policy = Policy { name, namespace, scope, action, dry_run: false, rules };
            let rules = Arc::new(Rules::compile([Arc::new(policy)].iter()));
            let opened = Policies::open(Path::new("/nowhere"), |_| Ok::<_, ()>(rules));
            let named = Access::default();
            AccessControl { named, policies: Some(opened.unwrap()), rego: None, bans: None }
        };
        let flow = Flow {
            direction: Direction::Inbound,
            peer: PeerAddr("10.0.0.9:999".parse().unwrap()),
            peer_id: Some(id.clone()),
            foreign: false,
            dst: "10.0.0.1:443".parse().unwrap(),
        };
        let by_name = |named| AccessControl { named, policies: None, rego: None, bans: None };
        let by_id = Access { ids: vec![id.clone()], ..Access::default() };
        let by_domain =
            Access { trust_domains: vec![id.trust_domain().clone()], ..Access::default() };
        for (what, access, sound, faulty) in [
            ("an ID", by_name(by_id), true, false),
            ("a trust domain", by_name(by_domain), true, false),
            ("an ALLOW", policies(Action::Allow), true, false),
            ("a DENY", policies(Action::Deny), false, false),
            ("everybody", by_name(Access { all: true, ..Access::default() }), true, true),
        ] {
            assert_eq!(access.admit(&peer(None), &flow).await.is_ok(), sound, "{what}");
            let faulted = access.admit(&peer(Some("it has two URIs")), &flow).await;
            assert_eq!(faulted.is_ok(), faulty, "{what}: {faulted:?}");
        }
    }
}
