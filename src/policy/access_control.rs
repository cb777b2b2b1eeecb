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

use super::{Access, Rego, unmatched::Unmatched};
use crate::{
    identity::{PeerCert, SpiffeId},
    net::Flow,
    observe::{Refusal, Refused},
    policy::{
        Rules,
        admission::{self, AccessRules, Asked, Decision, Protection, Request},
    },
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
    /// What `named` admits; `load` reads the file of its policies, `load_bans` that of its bans.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn open<E: Display, F: Display>(
        named: Access,
        load: impl FnOnce(&Path) -> Result<Arc<Rules>, E>,
        load_bans: impl FnOnce(&Path) -> Result<Banned, F>,
    ) -> Result<Self, String> {
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

    /// Who is banned now.
    #[must_use]
    pub fn banned(&self) -> Banned {
        self.bans.as_ref().map(|bans| Arc::clone(&bans.list.borrow())).unwrap_or_default()
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

    /// Whether the peer may be there.
    ///
    /// # Cancel safety
    /// Dropping the future leaves a Rego policy to come to its end by itself, within its time.
    pub async fn decide(&self, caller: &Caller<'_>, asked: Asked) -> Decision {
        let by_name = by_name(&self.named, caller.peer);
        let (decision, final_word) = self.by_rules(caller, by_name, asked);
        let Some(rego) = self.rego.as_ref().filter(|_| !final_word) else { return decision };
        let peer = caller.peer;
        let why = match rego.allows(Arc::clone(peer)).await {
            // Policies that were replaced meanwhile may deny it.
            Ok(true) => return self.by_rules(caller, Some("policy"), asked).0,
            Ok(false) => format!("the policy does not allow {}", peer.name()),
            Err(error) => format!("the policy failed: {error}"),
        };
        let refused = decision.refused.map(|(reason, _)| (reason, why));
        Decision { refused, ..decision }
    }

    /// Whether the peer may be there, if the Rego policy need not be asked for that.
    pub fn decide_at_once(&self, caller: &Caller<'_>, asked: Asked) -> Option<Decision> {
        let by_name = by_name(&self.named, caller.peer);
        let (decision, final_word) = self.by_rules(caller, by_name, asked);
        (final_word || self.rego.is_none()).then_some(decision)
    }

    /// What names and Istio policies say, and whether that is the last word.
    fn by_rules(
        &self,
        caller: &Caller<'_>,
        admitted_by: Option<&str>,
        asked: Asked,
    ) -> (Decision, bool) {
        let (rules, others) = (self.rules(), caller.as_shown());
        let unmatched = Unmatched { peer: caller.peer, named: &self.named };
        let request = Request {
            flow: caller.flow,
            as_shown: &others,
            // A policy may have gone by the ID.
            proven: caller.peer.id_fault.is_none(),
            access: admitted_by.map_or(AccessRules::NoMatch(&unmatched), AccessRules::Admit),
        };
        let protection = Protection { rules: rules.as_deref(), strict: false };
        let trace = admission::decide(protection, &request);
        let final_word = trace.allowed() || trace.denied();
        (trace.decision(asked), final_word)
    }
}

/// The peer that the access rules are asked about.
pub struct Caller<'a> {
    /// What its certificate says.
    pub peer: &'a Arc<PeerCert>,
    /// What is proven of it, and where it wants to go.
    pub flow: &'a Flow,
    /// Who we are.
    pub own: Option<&'a SpiffeId>,
}

impl Caller<'_> {
    fn as_shown(&self) -> Vec<Flow> {
        as_shown(self.peer, self.flow, self.own)
    }
}

/// The flow as each of the other IDs that the certificate shows: several names prove no ID, and
/// each may be denied.
pub(crate) fn as_shown(peer: &PeerCert, flow: &Flow, own: Option<&SpiffeId>) -> Vec<Flow> {
    let others = peer.shown_ids().filter(|id| flow.peer_id.as_ref() != Some(id));
    let as_shown = others.map(|id| {
        let foreign = own.is_none_or(|own| own.trust_domain() != id.trust_domain());
        Flow { peer_id: Some(id), foreign, ..flow.clone() }
    });
    as_shown.collect()
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

    /// An ID that breaks a rule for SVIDs is not an ID to go by, whoever names it; it can be
    /// denied.
    #[tokio::test]
    async fn an_id_that_proves_nobody_is_admitted_by_no_name_and_no_policy() {
        use crate::{
            identity::SpiffeId,
            net::{Direction, PeerAddr},
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
            other_principals: Vec::new(),
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
            for (fault, admitted) in [(None, sound), (Some("it has two URIs"), faulty)] {
                let (peer, flow) = (&peer(fault), &flow);
                let caller = Caller { peer, flow, own: None };
                let decision = access.decide(&caller, Asked::AtOpening).await;
                assert_eq!(decision.refused.is_none(), admitted, "{what}: {decision:?}");
            }
        }
    }
}
