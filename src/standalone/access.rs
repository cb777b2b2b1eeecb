//! Whom a service lets in, or whom it wants to find: any of these is enough. Nothing named, nobody
//! admitted; a policy that denies is asked first.

use std::{fmt, net::IpAddr, path::Path, str::FromStr, sync::Arc};

use arc_swap::ArcSwap;

use super::{Followed, PeerCert, Rego};
use crate::{
    identity::{SpiffeId, TrustDomain},
    observe::conn::Flow,
    policy::{self, Rules},
};

/// What is asked of a peer that has proven its certificate.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Anybody whose certificate verifies.
    pub all: bool,
    /// The subject's common name, exactly.
    pub cn: Vec<String>,
    /// One of the subject's organizational units, exactly.
    pub ou: Vec<String>,
    /// A DNS name, exactly.
    pub dns: Vec<String>,
    /// A URI; one of SPIFFE counts in an X.509-SVID only.
    pub uri: Vec<UriPattern>,
    /// An IP address in the certificate.
    pub ip: Vec<IpAddr>,
    /// A SPIFFE ID, exactly.
    pub ids: Vec<SpiffeId>,
    /// Any SPIFFE ID of this trust domain.
    pub trust_domains: Vec<TrustDomain>,
    /// Istio policies: who is denied there is refused whatever else is named.
    pub policies: Option<Arc<Policies>>,
    /// A Rego policy.
    pub rego: Option<Arc<Rego>>,
}

/// Istio policies of one file, replaced when it changes.
#[derive(Debug)]
pub struct Policies {
    file: Followed,
    rules: ArcSwap<Rules>,
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
        let followed = Followed::new(file);
        Ok(Self { file: followed, rules: ArcSwap::new(load(file)?) })
    }

    /// Where they are from.
    #[must_use]
    pub fn file(&self) -> &Followed {
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

impl Access {
    /// Whether everybody is admitted, and somebody is named beside that. Istio policies may be:
    /// they can deny.
    #[must_use]
    pub fn all_and_names(&self) -> bool {
        let names = Self { all: false, policies: None, ..self.clone() };
        self.all && !names.is_empty()
    }

    /// The files that it is from.
    pub fn files(&self) -> impl Iterator<Item = &Followed> {
        let policies = self.policies.as_ref().map(|policies| policies.file());
        policies.into_iter().chain(self.rego.as_ref().map(|rego| rego.file()))
    }

    /// Whether nothing is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all
            && self.cn.is_empty()
            && self.ou.is_empty()
            && self.dns.is_empty()
            && self.uri.is_empty()
            && self.ip.is_empty()
            && self.ids.is_empty()
            && self.trust_domains.is_empty()
            && self.policies.is_none()
            && self.rego.is_none()
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
        let rules = self.policies.as_ref().map(|policies| policies.rules());
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
        if let Some(rule) = self.by_name(peer) {
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

    /// Whether it names nobody but in policies, and none of those allows anything.
    #[must_use]
    pub fn only_denies(&self) -> bool {
        let others = Self { policies: None, ..self.clone() };
        others.is_empty() && self.policies.as_ref().is_some_and(|p| !p.rules().allows())
    }

    /// What dry-run policies would have done.
    #[must_use]
    pub fn dry_run(&self, flow: &Flow) -> Vec<String> {
        let rules = self.policies.as_ref().map(|policies| policies.rules());
        rules.map_or_else(Vec::new, |r| policy::authorize(&r, flow).dry_run().to_vec())
    }

    fn by_name(&self, peer: &PeerCert) -> Option<&'static str> {
        let any = |wanted: &[String], has: &[String]| wanted.iter().any(|w| has.contains(w));
        let id = peer.id.as_ref().filter(|_| peer.id_fault.is_none());
        if self.all {
            Some("all")
        } else if peer.cn.as_ref().is_some_and(|cn| self.cn.contains(cn)) {
            Some("cn")
        } else if any(&self.ou, &peer.ous) {
            Some("ou")
        } else if any(&self.dns, &peer.dns) {
            Some("dns")
        } else if self.uri.iter().any(|p| peer.proven_uris().any(|uri| p.matches(uri))) {
            Some("uri")
        } else if self.ip.iter().any(|ip| peer.ips.contains(&ip.to_canonical())) {
            Some("ip")
        } else if id.is_some_and(|id| self.ids.contains(id)) {
            Some("id")
        } else if id.is_some_and(|id| self.trust_domains.contains(id.trust_domain())) {
            Some("trust-domain")
        } else {
            None
        }
    }
}

/// A URI with wildcards: `*` stands for one segment, `**` at the end for all that follow. A `/`
/// at the end changes nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UriPattern {
    segments: Vec<String>,
    open_end: bool,
}

impl UriPattern {
    /// Whether the URI is of this shape.
    #[must_use]
    pub fn matches(&self, uri: &str) -> bool {
        let parts: Vec<&str> = trimmed(uri).split('/').collect();
        let long_enough = if self.open_end {
            parts.len() > self.segments.len()
        } else {
            parts.len() == self.segments.len()
        };
        long_enough
            && self
                .segments
                .iter()
                .zip(parts)
                .all(|(wanted, part)| if wanted == "*" { !part.is_empty() } else { wanted == part })
    }
}

fn trimmed(uri: &str) -> &str {
    uri.strip_suffix('/').unwrap_or(uri)
}

impl FromStr for UriPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 2048 {
            return Err("a pattern has 1 to 2048 bytes".into());
        }
        let mut segments: Vec<String> = trimmed(text).split('/').map(ToOwned::to_owned).collect();
        let open_end = segments.last().is_some_and(|last| last == "**");
        if open_end {
            segments.pop();
        }
        if segments.first().is_some_and(|first| first != "*" && !first.contains(':')) {
            return Err("a URI begins with its scheme, such as spiffe://".into());
        }
        match segments.iter().find(|s| s.contains('*') && *s != "*") {
            Some(segment) if segment == "**" => Err("`**` can only be the last segment".into()),
            Some(segment) => Err(format!("{segment:?}: a `*` stands for a whole segment")),
            None => Ok(Self { segments, open_end }),
        }
    }
}

impl fmt::Display for UriPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segments.join("/"))?;
        if self.open_end { f.write_str("/**") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ID that breaks a rule for SVIDs is no ID to go by, whoever names it; it can be denied.
    #[tokio::test]
    async fn an_id_that_proves_nobody_is_admitted_by_no_name_and_no_policy() {
        use crate::{
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
            Access { policies: Some(Arc::new(opened.unwrap())), ..Access::default() }
        };
        let flow = Flow {
            direction: Direction::Inbound,
            peer: PeerAddr("10.0.0.9:999".parse().unwrap()),
            peer_id: Some(id.clone()),
            foreign: false,
            dst: "10.0.0.1:443".parse().unwrap(),
        };
        let by_id = Access { ids: vec![id.clone()], ..Access::default() };
        let by_domain =
            Access { trust_domains: vec![id.trust_domain().clone()], ..Access::default() };
        for (what, access, sound, faulty) in [
            ("an ID", by_id, true, false),
            ("a trust domain", by_domain, true, false),
            ("an ALLOW", policies(Action::Allow), true, false),
            ("a DENY", policies(Action::Deny), false, false),
            ("everybody", Access { all: true, ..Access::default() }, true, true),
        ] {
            assert_eq!(access.admit(&peer(None), &flow).await.is_ok(), sound, "{what}");
            let faulted = access.admit(&peer(Some("it has two URIs")), &flow).await;
            assert_eq!(faulted.is_ok(), faulty, "{what}: {faulted:?}");
        }
    }

    #[test]
    fn wildcards_stand_for_whole_segments() {
        for (pattern, uri, matches) in [
            ("spiffe://a/b", "spiffe://a/b", true),
            ("spiffe://a/b/", "spiffe://a/b", true),
            ("spiffe://a/b", "spiffe://a/b/", true),
            ("spiffe://a/*", "spiffe://a/b", true),
            ("spiffe://a/*", "spiffe://a/b/c", false),
            ("spiffe://a/*", "spiffe://a", false),
            ("spiffe://a/*/c", "spiffe://a/b/c", true),
            ("spiffe://*/b", "spiffe://other/b", true),
            ("spiffe://a/**", "spiffe://a/b/c/d", true),
            ("spiffe://a/**", "spiffe://ab/c", false),
            ("spiffe://a/**", "spiffe://a", false),
            ("spiffe://a/b", "spiffe://a/B", false),
        ] {
            let parsed: UriPattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(uri), matches, "{pattern} on {uri}");
        }
        for bad in ["", "spiffe://a/b*", "spiffe://**/b", "a*/b"] {
            assert!(bad.parse::<UriPattern>().is_err(), "{bad}");
        }
    }
}
