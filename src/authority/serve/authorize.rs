//! Which caller may ask for which identity: decided here, and nowhere else.

use std::{collections::BTreeSet, fmt};

use crate::identity::{InvalidSpiffeId, SpiffeId, TrustDomain};

/// Who calls, once it has proved it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AuthenticatedCaller {
    /// A pod, by its service-account token.
    Pod(PodToken),
    /// A host, by a join token made for this ID.
    Joined(SpiffeId),
    /// Whoever holds an SVID that this CA issued.
    Svid(SpiffeId),
}

/// What a service-account token says of the pod that it is bound to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodToken {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its name.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// Its node; Kubernetes before 1.29 does not say.
    pub node: Option<String>,
}

impl fmt::Display for AuthenticatedCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(p) => {
                write!(f, "pod {}/{} ({}/{})", p.namespace, p.pod, p.namespace, p.service_account)
            }
            Self::Joined(id) => write!(f, "join token of {id}"),
            Self::Svid(id) => write!(f, "{id}"),
        }
    }
}

impl AuthenticatedCaller {
    /// Who it is, the same by a token and by an SVID.
    #[must_use]
    pub fn one(&self) -> String {
        match self {
            Self::Pod(_) => self.to_string(),
            Self::Joined(id) | Self::Svid(id) => id.to_string(),
        }
    }
}

/// A pod of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Where it runs.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// What the operator allows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuingRules {
    /// The CA's own.
    pub trust_domain: TrustDomain,
    /// Service accounts, `(namespace, name)`, that may ask for the pods of their own node.
    pub trusted_node_accounts: BTreeSet<(String, String)>,
}

impl IssuingRules {
    /// The ID of a pod, which is that of its service account.
    ///
    /// # Errors
    /// If the names of its token give none.
    pub(super) fn id_of(&self, pod: &PodToken) -> Result<SpiffeId, InvalidSpiffeId> {
        SpiffeId::for_service_account(&self.trust_domain, &pod.namespace, &pod.service_account)
    }
}

/// Why a caller does not get an identity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotYours {
    /// It belongs to somebody else's CA.
    #[error("this CA issues for {0} only")]
    TrustDomain(TrustDomain),
    /// Neither its own nor a node proxy.
    #[error("the caller may request {0} only")]
    Another(String),
    /// The pod that the token is bound to is gone: another has its name.
    #[error("the token's pod no longer exists; another pod has its name now")]
    StalePod,
    /// A node proxy whose node is not known.
    #[error("the caller's node is not known")]
    NodeUnknown,
    /// A node proxy that asks for what does not run on its node.
    #[error("no pod on node {0} has this service account")]
    OtherNode(String),
}

/// Decides. Pure.
///
/// A join token or an SVID gives its own ID and no other; a pod has the ID of its service
/// account; a trusted node account may ask for the service accounts of pods on its own node.
///
/// # Errors
/// Why not.
pub fn authorize(
    caller: &AuthenticatedCaller,
    wanted: &SpiffeId,
    rules: &IssuingRules,
    pods: &[Pod],
) -> Result<(), NotYours> {
    if *wanted.trust_domain() != rules.trust_domain {
        return Err(NotYours::TrustDomain(rules.trust_domain.clone()));
    }
    let token = match caller {
        AuthenticatedCaller::Joined(own) | AuthenticatedCaller::Svid(own) if own == wanted => {
            return Ok(());
        }
        AuthenticatedCaller::Joined(own) | AuthenticatedCaller::Svid(own) => {
            return Err(NotYours::Another(own.to_string()));
        }
        AuthenticatedCaller::Pod(token) => token,
    };
    let listed = pods.iter().find(|pod| pod.namespace == token.namespace && pod.name == token.pod);
    let stale = |pod: &&Pod| {
        pod.uid != token.uid
            || pod.service_account != token.service_account
            || token.node.as_ref().is_some_and(|node| *node != pod.node)
    };
    if listed.filter(stale).is_some() {
        return Err(NotYours::StalePod);
    }
    let own = (token.namespace.as_str(), token.service_account.as_str());
    if wanted.kubernetes() == Some(own) {
        return Ok(());
    }
    let account = (token.namespace.clone(), token.service_account.clone());
    let Some((namespace, service_account)) =
        wanted.kubernetes().filter(|_| rules.trusted_node_accounts.contains(&account))
    else {
        return Err(NotYours::Another(format!("service account {}/{}", own.0, own.1)));
    };
    let node = token.node.as_ref().or(listed.map(|pod| &pod.node)).ok_or(NotYours::NodeUnknown)?;
    let runs_there = pods.iter().any(|pod| {
        pod.namespace == namespace && pod.service_account == service_account && pod.node == *node
    });
    if runs_there { Ok(()) } else { Err(NotYours::OtherNode(node.clone())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, account: &str, node: &str, name: &str) -> Pod {
        Pod {
            namespace: namespace.into(),
            service_account: account.into(),
            node: node.into(),
            name: name.into(),
            uid: format!("uid-{name}"),
        }
    }

    fn token(namespace: &str, account: &str, name: &str, node: Option<&str>) -> PodToken {
        PodToken {
            namespace: namespace.into(),
            service_account: account.into(),
            pod: name.into(),
            uid: format!("uid-{name}"),
            node: node.map(Into::into),
        }
    }

    #[test]
    fn who_may_ask_for_what() {
        let id = |text: &str| -> SpiffeId { format!("spiffe://td/{text}").parse().unwrap() };
        let rules = IssuingRules {
            trust_domain: "td".parse().unwrap(),
            trusted_node_accounts: [("sys".into(), "adit".into())].into(),
        };
        let pods = [
            pod("shop", "web", "n1", "web-1"),
            pod("shop", "db", "n2", "db-1"),
            pod("sys", "adit", "n1", "adit-1"),
        ];
        let web = token("shop", "web", "web-1", Some("n1"));
        let node = token("sys", "adit", "adit-1", Some("n1"));
        let reborn = PodToken { uid: "other".into(), ..web.clone() };
        let moved = PodToken { node: Some("n2".into()), ..node.clone() };
        let other_account = PodToken { service_account: "db".into(), ..web.clone() };
        let unlisted = token("sys", "adit", "adit-9", None);
        let impostor = token("evil", "adit", "adit-1", Some("n1"));
        let own = |p: &str| Err(NotYours::Another(format!("service account {p}")));
        use AuthenticatedCaller::{Joined, Pod as By, Svid};
        for (caller, wanted, verdict) in [
            (By(web.clone()), "ns/shop/sa/web", Ok(())),
            (By(token("shop", "web", "new", None)), "ns/shop/sa/web", Ok(())),
            (By(web.clone()), "ns/shop/sa/db", own("shop/web")),
            (By(web), "host/a", own("shop/web")),
            (By(reborn), "ns/shop/sa/web", Err(NotYours::StalePod)),
            (By(other_account), "ns/shop/sa/db", Err(NotYours::StalePod)),
            (By(node.clone()), "ns/shop/sa/web", Ok(())),
            (By(node.clone()), "ns/sys/sa/adit", Ok(())),
            (By(node.clone()), "ns/shop/sa/db", Err(NotYours::OtherNode("n1".into()))),
            (By(node.clone()), "ns/shop/sa/none", Err(NotYours::OtherNode("n1".into()))),
            (By(node.clone()), "host/a", own("sys/adit")),
            (By(moved), "ns/shop/sa/db", Err(NotYours::StalePod)),
            (By(PodToken { node: None, ..node }), "ns/shop/sa/web", Ok(())),
            (By(unlisted), "ns/shop/sa/web", Err(NotYours::NodeUnknown)),
            (By(impostor), "ns/shop/sa/web", own("evil/adit")),
            (Joined(id("host/a")), "host/a", Ok(())),
            (Joined(id("host/a")), "host/b", Err(NotYours::Another(id("host/a").to_string()))),
            (Svid(id("host/a")), "host/a", Ok(())),
            (Svid(id("host/a")), "host/a/b", Err(NotYours::Another(id("host/a").to_string()))),
        ] {
            assert_eq!(
                authorize(&caller, &id(wanted), &rules, &pods),
                verdict,
                "{caller}: {wanted}"
            );
        }
        let foreign = "spiffe://other/ns/shop/sa/web".parse().unwrap();
        let caller = Svid("spiffe://other/ns/shop/sa/web".parse().unwrap());
        let verdict = authorize(&caller, &foreign, &rules, &pods);
        assert_eq!(verdict, Err(NotYours::TrustDomain("td".parse().unwrap())));
    }
}
