//! What a server that runs takes of another configuration.

use super::{Attestors, Kubernetes, ServerConfig};

/// What of `wanted` takes effect without a restart: names, lifetimes, whom trusted node accounts
/// are, and what tokens must say. What proves who callers are can be taken away, and given again;
/// to be added or exchanged it needs files and ports that this process was not given at its
/// `start`. Where that would be, what is in use `now` stays.
pub(super) fn taken(
    start: &ServerConfig,
    now: &ServerConfig,
    wanted: &ServerConfig,
) -> ServerConfig {
    let (had, wants) = (&start.attestors, &wanted.attestors);
    let mut rules = wanted.rules.clone();
    rules.trust_domain = start.rules.trust_domain.clone();
    ServerConfig {
        listen: start.listen,
        names: wanted.names.clone(),
        svid_lifetime: wanted.svid_lifetime,
        rules,
        attestors: Attestors {
            kubernetes: kubernetes(had, &now.attestors, wants),
            join: match wants.join == had.join {
                true => had.join.clone(),
                false => now.attestors.join.clone().filter(|_| wants.join.is_some()),
            },
            svid: had.svid && wants.svid,
        },
    }
}

/// What tokens must say goes with who signs them.
fn kubernetes(had: &Attestors, now: &Attestors, wants: &Attestors) -> Option<Kubernetes> {
    let (start, wanted) = had.kubernetes.as_ref().zip(wants.kubernetes.as_ref())?;
    match start.keys == wanted.keys && start.review == wanted.review {
        true => Some(wanted.clone()),
        false => now.kubernetes.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::authority::serve::{ExpectedClaims, JoinTokens, KeysFrom, authorize::IssuingRules};

    fn config(audience: &str, jwks: &str, dir: &str) -> ServerConfig {
        let expected = ExpectedClaims { issuer: "i".into(), audience: audience.into() };
        let keys = Some(KeysFrom::File(jwks.into()));
        ServerConfig {
            listen: "127.0.0.1:1".parse().unwrap(),
            names: vec!["ca.test".into()],
            svid_lifetime: Duration::from_secs(60),
            rules: IssuingRules {
                trust_domain: "td".parse().unwrap(),
                trusted_node_accounts: BTreeSet::new(),
            },
            attestors: Attestors {
                kubernetes: Some(Kubernetes { expected, keys, review: None }),
                join: Some(JoinTokens { dir: dir.into() }),
                svid: true,
            },
        }
    }

    #[test]
    fn what_proves_who_calls_is_taken_away_and_not_added() {
        let start = config("a", "/jwks", "/join");
        let mut wanted = config("b", "/jwks", "/join");
        wanted.svid_lifetime = Duration::from_secs(30);
        wanted.names = vec!["other.test".into()];
        wanted.rules.trusted_node_accounts.insert(("sys".into(), "adit".into()));
        assert_eq!(taken(&start, &start, &wanted), wanted);
        wanted.attestors = Attestors::default();
        assert_eq!(taken(&start, &start, &wanted), wanted);
        assert_eq!(taken(&wanted, &wanted, &start).attestors, Attestors::default());
        let mut elsewhere = config("b", "/other", "/elsewhere");
        elsewhere.listen = "127.0.0.1:2".parse().unwrap();
        elsewhere.rules.trust_domain = "other".parse().unwrap();
        assert_eq!(taken(&start, &start, &elsewhere), start);
        // The audience that an edit has taken away does not come back with one that waits.
        let now = taken(&start, &start, &config("b", "/jwks", "/join"));
        assert_eq!(taken(&start, &now, &config("b", "/other", "/join")), now);
        // Nor do signers and tokens that an edit has taken away, when others are wanted.
        let mut none = start.clone();
        none.attestors = Attestors::default();
        let others = config("b", "/other", "/elsewhere");
        let attestors = taken(&start, &none, &others).attestors;
        assert!(attestors.kubernetes.is_none() && attestors.join.is_none());
    }
}
