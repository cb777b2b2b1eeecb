//! The access rules of a service: `allow` (clients of a server) and `verify` (targets of a client).

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use super::{policy_file::load_policies, values::TRUTH};
use crate::{
    config::reader::{Item, Map},
    observe::Feature,
    policy::{Access, Action, Policy, RegoConfig, Rule, Rules, Scope, UriPattern},
    roles::standalone::Role,
    tls::Pin,
};

const NAMED: &[&str] = &[
    "all",
    "commonNames",
    "organizationalUnits",
    "dnsNames",
    "uris",
    "ips",
    "ids",
    "trustDomains",
    "pins",
    "rego",
    "policies",
];

/// Who is named, which keys are pinned, and what is in the file of policies.
pub(super) fn access(
    item: &Item<'_>,
    role: Role,
    within: Duration,
) -> (Access, Vec<Pin>, Option<Arc<Rules>>) {
    let map = match role {
        Role::Server => item.map(NAMED),
        Role::Client => item.map(&NAMED[1..NAMED.len() - 1]),
    };
    if map.is_empty() {
        item.lacks("is empty, so it allows no peer");
    }
    let texts = |key: &str| map.list(key).iter().filter_map(|i| i.text()).collect();
    let policies = map.get("policies").and_then(|p| policies_of(&p));
    let (policies, rules) = policies.unzip();
    let access = Access {
        all: map.get("all").and_then(|a| a.word(&TRUTH)).unwrap_or(false),
        cn: texts("commonNames"),
        ou: texts("organizationalUnits"),
        dns: texts("dnsNames"),
        uri: all::<UriPattern>(&map, "uris", "spiffe://td/ns/shop/*"),
        ip: all(&map, "ips", "10.0.0.1"),
        ids: all(&map, "ids", "spiffe://td/web"),
        trust_domains: all(&map, "trustDomains", "cluster.local"),
        policies,
        rego: map.get("rego").and_then(|rego| rego_of(&rego, within)),
        bans: None,
    };
    (access, all(&map, "pins", "sha256:BASE64"), rules)
}

fn all<T: FromStr>(map: &Map<'_>, key: &str, example: &str) -> Vec<T>
where
    T::Err: std::fmt::Display,
{
    map.list(key).iter().filter_map(|item| item.parse(example)).collect()
}

/// Stands for policies that cannot be read here.
fn some_allow() -> Policy {
    Policy {
        name: String::new(),
        namespace: String::new(),
        scope: Scope::Global,
        action: Action::Allow,
        dry_run: false,
        rules: vec![Rule::default()],
    }
}

fn policies_of(item: &Item<'_>) -> Option<(PathBuf, Arc<Rules>)> {
    let file = PathBuf::from(item.text()?);
    if item.is_elsewhere() {
        // They may be an ALLOW, which is all that anybody asks of them here.
        return Some((file, Arc::new(Rules::compile([Arc::new(some_allow())].iter()))));
    }
    let rules = load_policies(&file).map_err(|error| item.fault(error)).ok()?;
    Some((file, rules))
}

/// `{ file: …, query: data.policy.allow }`; an evaluation may take as long as connecting.
fn rego_of(item: &Item<'_>, within: Duration) -> Option<RegoConfig> {
    let map = item.map(&["file", "query"]);
    let (file, query) = (map.require("file"), map.require("query"));
    let (file, query) = (file?.text()?.into(), query?.text()?);
    let rego = RegoConfig { file, query, within };
    match item.is_elsewhere() {
        // The build is this one, wherever the file is.
        true => Feature::Rego.require().map_err(|error| item.fault(error)).ok()?,
        false => rego.check().map_err(|error| item.fault(error)).ok()?,
    }
    Some(rego)
}

#[cfg(test)]
mod tests {
    use crate::{
        config::{Files, check_standalone_for},
        observe::Feature,
    };

    #[test]
    fn a_build_without_rego_refuses_its_policies_for_another_machine_too() {
        let text = "services:\n- name: s\n  mode: server\n  listen: :8443\n  target: localhost:2\n  \
                    credential: { certificate: /c, privateKey: /k, roots: /r }\n  \
                    allow: { rego: { file: /p.rego, query: data.x } }\n";
        let checked = check_standalone_for("f.yaml", text, Files::Elsewhere);
        assert_eq!(checked.is_ok(), Feature::Rego.is_built());
        let refused = checked.err().map(|faults| faults.to_string()).unwrap_or_default();
        assert!(Feature::Rego.is_built() || refused.contains("\"rego\"; install"), "{refused}");
    }
}
