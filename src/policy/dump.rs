//! Policies as programs read them in `/config_dump`, in Istio's shapes (ambient contract §8.3):
//! `istioctl` and Kiali decode them. Names are an interface: one may come, none goes or changes,
//! and within `rules` none comes either.

use ipnet::IpNet;
use serde::Serialize;

use super::{Action, Clause, Match, Policy, Rule, Scope, ServiceAccountMatch, StringMatch};

/// One policy.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDump {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `Global`, `Namespace` or `WorkloadSelector`.
    pub scope: &'static str,
    /// `Allow` or `Deny`.
    pub action: &'static str,
    /// Any rule, in it all clauses, in those any match.
    pub rules: Vec<Vec<Vec<MatchDump>>>,
    /// Whether it only says what it would do.
    pub dry_run: bool,
    /// `FILE:LINE` of each rule, if its source has lines. Ours, as is what follows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<String>,
    /// How rules with conditions on HTTP are enforced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What is asked of a flow: all fields that are there.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MatchDump {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<StringDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_namespaces: Vec<StringDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_accounts: Vec<AccountDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_service_accounts: Vec<AccountDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    principals: Vec<StringDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_principals: Vec<StringDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_source_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_destination_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_destination_ports: Vec<u16>,
}

/// `{"Exact": "x"}` and so on; `{"Presence": []}`.
#[derive(Clone, Debug, Serialize)]
enum StringDump {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Presence(),
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AccountDump {
    namespace: String,
    service_account: String,
}

impl Policy {
    /// As `/config_dump` shows it.
    #[must_use]
    pub fn dump(&self) -> PolicyDump {
        PolicyDump {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            scope: match self.scope {
                Scope::Global => "Global",
                Scope::Namespace => "Namespace",
                Scope::Selector { .. } | Scope::Named => "WorkloadSelector",
            },
            action: match self.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
            },
            rules: self.rules.iter().map(rule).collect(),
            dry_run: self.dry_run,
            places: self.places().flatten().map(ToString::to_string).collect(),
            notes: self.http_parts().map(|(rule, part)| format!("rule {rule} {part}")).collect(),
        }
    }
}

fn rule(rule: &Rule) -> Vec<Vec<MatchDump>> {
    let clause = |clause: &Clause| clause.matches.iter().map(MatchDump::of).collect();
    rule.clauses.iter().map(clause).collect()
}

impl MatchDump {
    fn of(m: &Match) -> Self {
        fn each<T, D: for<'a> From<&'a T>>(all: &[T]) -> Vec<D> {
            all.iter().map(D::from).collect()
        }
        let blocks = |all: &[IpNet]| all.iter().map(ToString::to_string).collect();
        Self {
            namespaces: each(&m.namespaces.any),
            not_namespaces: each(&m.namespaces.none),
            service_accounts: each(&m.service_accounts.any),
            not_service_accounts: each(&m.service_accounts.none),
            principals: each(&m.principals.any),
            not_principals: each(&m.principals.none),
            source_ips: blocks(&m.source_ips.any),
            not_source_ips: blocks(&m.source_ips.none),
            destination_ips: blocks(&m.destination_ips.any),
            not_destination_ips: blocks(&m.destination_ips.none),
            destination_ports: m.destination_ports.any.clone(),
            not_destination_ports: m.destination_ports.none.clone(),
        }
    }
}

impl From<&StringMatch> for StringDump {
    fn from(text: &StringMatch) -> Self {
        match text {
            StringMatch::Exact(text) => Self::Exact(text.clone()),
            StringMatch::Prefix(text) => Self::Prefix(text.clone()),
            StringMatch::Suffix(text) => Self::Suffix(text.clone()),
            StringMatch::Presence => Self::Presence(),
        }
    }
}

impl From<&ServiceAccountMatch> for AccountDump {
    fn from(account: &ServiceAccountMatch) -> Self {
        Self { namespace: account.namespace.clone(), service_account: account.account.clone() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::FieldMatch;

    #[test]
    fn every_field_is_shown_as_istioctl_and_kiali_read_it() {
        let text = |text| StringMatch::parse(text).unwrap();
        let account = ServiceAccountMatch { namespace: "shop".into(), account: "web".into() };
        let all = Match {
            namespaces: FieldMatch { any: vec![text("shop"), text("b*")], none: vec![text("*c")] },
            service_accounts: FieldMatch { any: vec![account.clone()], none: vec![account] },
            principals: FieldMatch { any: vec![text("*")], none: vec![text("td/x")] },
            source_ips: FieldMatch {
                any: vec!["10.0.0.0/8".parse().unwrap()],
                none: vec!["2001:db8::1/128".parse().unwrap()],
            },
            destination_ips: FieldMatch {
                any: vec!["10.1.0.0/16".parse().unwrap()],
                none: vec!["10.1.0.1/32".parse().unwrap()],
            },
            destination_ports: FieldMatch { any: vec![80, 81], none: vec![82] },
        };
        let rule = Rule { clauses: vec![all.into(), Match::default().into()], place: None };
        let policy = Policy {
            name: "p".into(),
            namespace: "shop".into(),
            scope: Scope::Named,
            action: Action::Deny,
            dry_run: true,
            rules: vec![rule, Rule::default()],
        };
        let expected = json!({
            "name": "p",
            "namespace": "shop",
            "scope": "WorkloadSelector",
            "action": "Deny",
            "rules": [
                [
                    [{
                        "namespaces": [{ "Exact": "shop" }, { "Prefix": "b" }],
                        "notNamespaces": [{ "Suffix": "c" }],
                        "serviceAccounts": [{ "namespace": "shop", "serviceAccount": "web" }],
                        "notServiceAccounts": [{ "namespace": "shop", "serviceAccount": "web" }],
                        "principals": [{ "Presence": [] }],
                        "notPrincipals": [{ "Exact": "td/x" }],
                        "sourceIps": ["10.0.0.0/8"],
                        "notSourceIps": ["2001:db8::1/128"],
                        "destinationIps": ["10.1.0.0/16"],
                        "notDestinationIps": ["10.1.0.1/32"],
                        "destinationPorts": [80, 81],
                        "notDestinationPorts": [82],
                    }],
                    [{}],
                ],
                [],
            ],
            "dryRun": true,
            "notes": [format!("rule 0 {}", crate::policy::HttpPart::LeftOut)],
        });
        assert_eq!(serde_json::to_value(policy.dump()).unwrap(), expected);
    }
}
