//! Whom a service shows what, and whom it admits: `credential`, `allow`, `verify`.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use super::{TRUTH, load_policies};
use crate::{
    config::{
        opening::{self, Holds},
        reader::{Item, Map},
    },
    credentials::{
        Credential,
        acme::{AcmeConfig, CHECK_EVERY, LETS_ENCRYPT, default_storage},
        store::{CredentialSource, CredentialsConfig, Token},
        workload_api::Endpoint,
    },
    policy::{Action, Policy, Rule, Rules, Scope},
    standalone::{Access, RegoConfig, Role, UriPattern, one_credential},
    tls::{Pin, StaleCrls},
};

const STALE: [(&str, StaleCrls); 2] = [("refuse", StaleCrls::Refuse), ("warn", StaleCrls::Warn)];

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
        item.fault("names nobody");
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
    if !item.is_elsewhere() {
        rego.check().map_err(|error| item.fault(error)).ok()?;
    }
    Some(rego)
}

pub(super) fn material(
    map: &Map<'_>,
    role: Role,
    authenticate: bool,
    pins: Vec<Pin>,
) -> Option<CredentialsConfig> {
    let none = CredentialsConfig::Files {
        credential: None,
        password: None,
        roots: None,
        crls: Vec::new(),
        stale: StaleCrls::Refuse,
        pins: pins.clone(),
    };
    let needed = role == Role::Server || authenticate;
    let Some(item) = map.get("credential") else {
        // What is missing is said by the validation.
        return Some(none);
    };
    let credential = item.map(&[
        "certificate",
        "privateKey",
        "acme",
        "pkcs11",
        "keystore",
        "passwordFile",
        "workloadApi",
        "roots",
        "crls",
        "crl",
    ]);
    let path = |key: &str, holds| credential.get(key).and_then(|i| opening::path(&i, holds));
    let has = |key: &str| credential.get(key).is_some();
    let ways = [
        ("keystore", has("keystore")),
        (
            "certificate with privateKey or pkcs11",
            has("certificate") || has("privateKey") || has("pkcs11"),
        ),
        ("workloadApi", has("workloadApi")),
        ("acme", has("acme")),
    ];
    if let Err(why) = one_credential(&ways, needed) {
        item.fault(why);
        return None;
    }
    if let Some(api) = credential.get("workloadApi") {
        let endpoint: Endpoint = api.parse("unix:///run/spire/agent.sock")?;
        for key in ["roots", "crls", "crl", "passwordFile"] {
            if let Some(wrong) = credential.get(key) {
                wrong.fault("is not for workloadApi, which gives the roots itself");
            }
        }
        if !pins.is_empty() {
            item.fault("pins replace the trust in roots: not with workloadApi");
        }
        let within = Some(Duration::from_secs(600));
        return Some(CredentialsConfig::WorkloadApi { endpoint, within, shown: needed });
    }
    if let Some(wrong) = credential.get("acme").filter(|_| role == Role::Client) {
        wrong.fault("is for servers: a CA calls the name that it certifies");
        return None;
    }
    let acme = match credential.get("acme") {
        Some(acme) => Some(CredentialSource::Acme(acme_of(&acme)?)),
        None => None,
    };
    let token = match credential.get("pkcs11") {
        Some(token) => Some(token_of(&token)?),
        None => None,
    };
    let shown = match (
        path("keystore", Holds::Something),
        path("certificate", Holds::Certificates),
        path("privateKey", Holds::PrivateKey),
        token,
    ) {
        (Some(keystore), ..) => {
            let password = path("passwordFile", Holds::Something);
            Some(CredentialSource::Files(Credential::Keystore { keystore, password }))
        }
        (None, Some(certificate), Some(private_key), None) => {
            Some(CredentialSource::Files(Credential::Pem { certificate, private_key }))
        }
        (None, Some(certificate), None, Some(token)) => {
            Some(CredentialSource::Token { certificate, token })
        }
        (None, None, None, None) => acme,
        _ => {
            item.lacks("certificate comes with either privateKey or pkcs11");
            return None;
        }
    };
    let crls = credential.list("crls");
    let crls = crls.iter().filter_map(|c| opening::path(c, Holds::Crls)).collect();
    let stale = match credential.get("crl") {
        Some(crl) => match crl.map(&["stale"]).get("stale") {
            Some(stale) => stale.word(&STALE)?,
            None => StaleCrls::Refuse,
        },
        None => StaleCrls::Refuse,
    };
    let roots = path("roots", Holds::Certificates);
    Some(CredentialsConfig::Files { credential: shown, password: None, roots, crls, stale, pins })
}

/// `{ module: …, tokenLabel: …, pinFile: … }`
fn token_of(item: &Item<'_>) -> Option<Token> {
    let map = item.map(&["module", "tokenLabel", "pinFile"]);
    let text = |key: &str| map.get(key).and_then(|i| i.text());
    let module = opening::path(&map.require("module")?, Holds::Something)?;
    let pin_file = map.get("pinFile").and_then(|i| opening::path(&i, Holds::Something));
    Some(Token { module, label: text("tokenLabel"), pin: None, pin_file })
}

/// `{ name: …, email: …, agreeToTerms: true, directory: …, storage: … }`
fn acme_of(item: &Item<'_>) -> Option<AcmeConfig> {
    let map = item.map(&["name", "email", "agreeToTerms", "directory", "storage"]);
    let text = |key: &str| map.get(key).and_then(|i| i.text());
    let (name, terms) = (map.require("name"), map.require("agreeToTerms"));
    let (name, terms) = (name?.text()?, terms?);
    if !terms.word(&TRUTH)? {
        terms.fault("a CA certifies nobody who does not agree to its terms");
        return None;
    }
    let storage = text("storage").map(PathBuf::from).or_else(default_storage);
    let Some(storage) = storage else {
        item.fault("storage is missing: where certificates are kept");
        return None;
    };
    let config = AcmeConfig {
        name,
        email: text("email"),
        directory: text("directory").unwrap_or_else(|| LETS_ENCRYPT.into()),
        storage,
        check_every: CHECK_EVERY,
        challenge_port: None,
    };
    config.check().map_err(|why| item.fault(why)).ok()?;
    Some(config)
}
