//! The certificate and key of a service, and the roots that it trusts: `credential`.

use std::{path::PathBuf, time::Duration};

use super::values::TRUTH;
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
    roles::standalone::{Role, one_credential},
    tls::{Pin, StaleCrls},
};

const STALE: [(&str, StaleCrls); 2] = [("refuse", StaleCrls::Refuse), ("warn", StaleCrls::Warn)];

pub(super) fn credentials(
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
        item.lacks(why);
        return None;
    }
    if let Some(api) = credential.get("workloadApi") {
        return workload_api(&item, &credential, &api, &pins, needed);
    }
    if let Some(wrong) = credential.get("acme").filter(|_| role == Role::Client) {
        wrong.fault("is only for servers: the CA connects to the name that it certifies");
        return None;
    }
    let shown = shown(&item, &credential);
    let crls = credential.list("crls");
    let crls = crls.iter().filter_map(|c| opening::path(c, Holds::Crls)).collect();
    let stale = credential.get("crl").and_then(|crl| crl.map(&["stale"]).get("stale"));
    let stale = stale.map_or(Some(StaleCrls::Refuse), |stale| stale.word(&STALE));
    let roots = path(&credential, "roots", Holds::Certificates);
    let (credential, stale) = (shown?, stale?);
    Some(CredentialsConfig::Files { credential, password: None, roots, crls, stale, pins })
}

fn path(map: &Map<'_>, key: &str, holds: Holds) -> Option<PathBuf> {
    map.get(key).and_then(|item| opening::path(&item, holds))
}

fn workload_api(
    item: &Item<'_>,
    credential: &Map<'_>,
    api: &Item<'_>,
    pins: &[Pin],
    shown: bool,
) -> Option<CredentialsConfig> {
    let endpoint: Endpoint = api.parse("unix:///run/spire/agent.sock")?;
    for key in ["roots", "crls", "crl", "passwordFile"] {
        if let Some(wrong) = credential.get(key) {
            wrong.fault("cannot be used with workloadApi, which provides the roots itself");
        }
    }
    if !pins.is_empty() {
        item.fault("pins replace the roots, so they cannot be used with workloadApi");
    }
    let within = Some(Duration::from_secs(600));
    Some(CredentialsConfig::WorkloadApi { endpoint, within, shown })
}

/// What is shown, if anything is; `None` is a fault.
fn shown(item: &Item<'_>, credential: &Map<'_>) -> Option<Option<CredentialSource>> {
    let acme = match credential.get("acme") {
        Some(acme) => Some(CredentialSource::Acme(acme_of(&acme)?)),
        None => None,
    };
    let token = match credential.get("pkcs11") {
        Some(token) => Some(token_of(&token)?),
        None => None,
    };
    let keystore = path(credential, "keystore", Holds::Something);
    let certificate = path(credential, "certificate", Holds::Certificates);
    let private_key = path(credential, "privateKey", Holds::PrivateKey);
    Some(match (keystore, certificate, private_key, token) {
        (Some(keystore), ..) => {
            let password = path(credential, "passwordFile", Holds::Secret("`passwordFile`"));
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
            item.lacks("certificate needs either privateKey or pkcs11 beside it");
            return None;
        }
    })
}

/// `{ module: …, tokenLabel: …, pinFile: … }`
fn token_of(item: &Item<'_>) -> Option<Token> {
    let map = item.map(&["module", "tokenLabel", "pinFile"]);
    let text = |key: &str| map.get(key).and_then(|i| i.text());
    let module = opening::path(&map.require("module")?, Holds::Something)?;
    let pin_file = map.get("pinFile");
    let pin_file = pin_file.and_then(|i| opening::path(&i, Holds::Secret("`pinFile`")));
    Some(Token { module, label: text("tokenLabel"), pin: None, pin_file })
}

/// `{ name: …, email: …, agreeToTerms: true, directory: …, storage: … }`
fn acme_of(item: &Item<'_>) -> Option<AcmeConfig> {
    let map = item.map(&["name", "email", "agreeToTerms", "directory", "storage"]);
    let text = |key: &str| map.get(key).and_then(|i| i.text());
    let (name, terms) = (map.require("name"), map.require("agreeToTerms"));
    let (name, terms) = (name?.text()?, terms?);
    if !terms.word(&TRUTH)? {
        terms.fault("a CA issues certificates only to those who agree to its terms of service");
        return None;
    }
    let storage = text("storage").map(PathBuf::from).or_else(default_storage);
    let Some(storage) = storage else {
        item.fault("storage is missing: the directory in which certificates are kept");
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
