//! Whether what a file names can be opened, as `adit run` and `adit proxy` would open it.

use std::{
    fs::File,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use tokio::{runtime::Builder, time::timeout};

use crate::{
    config::{
        CaConfig, Checked, Fault, FederationConfig, StandaloneFile, load_bans, load_policies,
        policies_that_never_match,
    },
    credentials::{
        AuthToken, Roots,
        store::{CredentialStore, CredentialsConfig, look},
    },
    identity::{
        key_files::{at, certificates},
        secret_file,
    },
    net::Address,
    observe::Telemetry,
    policy::AccessControl,
    roles::standalone::{Service, ServiceConfig},
    spiffe_api::federation::{BundleFrom, Profile, Proof},
};

/// How long a service's files may take to be read: one may be a pipe.
const WITHIN: Duration = Duration::from_secs(10);

/// What is wrong with the files of each service, where it stands, and what is probably not meant.
///
/// # Errors
/// If this machine gives no runtime.
pub fn opened_services(read: &StandaloneFile) -> anyhow::Result<(Vec<Fault>, Vec<Fault>)> {
    let telemetry = Telemetry::new()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    for (service, place) in read.services.iter().zip(&read.credentials) {
        let opened = runtime.block_on(async { timeout(WITHIN, open(service, &telemetry)).await });
        let late = |_| Err(format!("files could not be read within {WITHIN:?}"));
        if let Err(message) = opened.unwrap_or_else(late) {
            faults.push(Fault { message, ..place.clone() });
            continue;
        }
        let told = look(&service.credentials, SystemTime::now());
        let placed = |message| Fault { message, ..place.clone() };
        faults.extend(told.faults.into_iter().map(placed));
        warnings.extend(told.warnings.into_iter().map(placed));
        let port = match &service.listen {
            // Otherwise a PROXY header or the tunnel's request says which port was called.
            Address::Tcp { port, .. } if !service.proxy_in && service.hbone.is_none() => {
                Some(*port)
            }
            _ => None,
        };
        let policies = service.access.policies.iter();
        let policies = policies.flat_map(|file| policies_that_never_match(file, port));
        warnings.extend(policies.map(placed));
    }
    // A file that is still being read keeps nothing from ending.
    runtime.shutdown_background();
    Ok((faults, warnings))
}

async fn open(service: &ServiceConfig, telemetry: &Telemetry) -> Result<(), String> {
    match &service.credentials {
        // Who gives them may not be there yet.
        CredentialsConfig::WorkloadApi { .. } => return Ok(()),
        credentials if credentials.acme().is_some_and(|acme| !acme.file().exists()) => {
            return Ok(());
        }
        CredentialsConfig::Files { .. } => {}
    }
    let store = CredentialStore::open(service.credentials.clone()).await?;
    let access = AccessControl::open(service.admits(), load_policies, load_bans)?;
    Service::new(service.clone(), access, store, telemetry.clone()).map(drop)
}

/// What is wrong with the files of a mesh, and what is only missing so far.
#[must_use]
pub fn opened_mesh(checked: &Checked) -> (Vec<Fault>, Vec<Fault>) {
    let domain = &checked.mesh.trust_domain;
    let [ca, federation] = &checked.sections;
    let place =
        |section: &Option<Fault>| section.clone().unwrap_or_else(|| Fault::at_start(String::new()));
    let mut faults = Vec::new();
    let opened = match &checked.ca {
        CaConfig::Files(files) => files.check(domain),
        CaConfig::Embedded { upstream: Some(upstream), .. } => {
            upstream.check(domain).map_err(|e| e.to_string())
        }
        CaConfig::Istiod(istiod) => {
            let roots = match &istiod.server.roots {
                Roots::File(file) => certificates(file).map(drop),
                Roots::Pem(_) | Roots::System => Ok(()),
            };
            let token = match &istiod.server.token {
                Some(AuthToken::File(file)) => {
                    let named = secret_file("`token`", file);
                    opened(file).map_err(|error| format!("{named} cannot be read: {error}"))
                }
                Some(AuthToken::Text(_)) | None => Ok(()),
            };
            token.and(roots)
        }
        CaConfig::Embedded { .. } | CaConfig::WorkloadApi(_) | CaConfig::Broker(_) => Ok(()),
    };
    faults.extend(opened.err().map(|message| Fault { message, ..place(ca) }));
    let federated = files_of(&checked.federation).into_iter();
    faults.extend(federated.map(|message| Fault { message, ..place(federation) }));
    let missing = checked.local_workloads().into_iter().filter_map(|workload| {
        let netns = workload.netns()?.path();
        let message = format!(
            "{}: {} does not exist",
            workload.uid,
            crate::identity::shown(Path::new(&netns))
        );
        let place = checked.places.iter().find(|(uid, _)| *uid == workload.uid);
        let place = place.map_or_else(|| Fault::at_start(String::new()), |(_, at)| at.clone());
        (!netns.exists()).then_some(Fault { message, ..place })
    });
    (faults, missing.collect())
}

fn files_of(federation: &FederationConfig) -> Vec<String> {
    let mut opened = Vec::new();
    for relation in &federation.trust_domains {
        opened.push(match &relation.from {
            BundleFrom::File(file) => readable(file),
            BundleFrom::Endpoint { profile: Profile::Web { roots: Some(roots) }, .. } => {
                certificates(roots).map(drop)
            }
            BundleFrom::Endpoint {
                profile: Profile::Spiffe { bundle: Some(file), .. }, ..
            } => readable(file),
            BundleFrom::Endpoint { .. } => Ok(()),
        });
    }
    let shown = federation.serve.bundle.as_ref().map(|endpoint| &endpoint.proof);
    if let Some(Proof::Web(files)) = shown {
        opened.push(files.check());
    }
    opened.into_iter().filter_map(Result::err).collect()
}

fn readable(path: &Path) -> Result<(), String> {
    opened(path).map_err(|error| at(path, error))
}

fn opened(path: &Path) -> io::Result<()> {
    match File::open(path)?.metadata()?.is_dir() {
        true => Err(io::Error::other("is a directory")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_token_in_the_place_of_its_path_is_not_shown() {
        for (token, shown) in [
            ("adit-join.c2VjcmV0SECRETWORD", "the file that `token` names cannot be read"),
            ("/nowhere/token", "/nowhere/token cannot be read"),
        ] {
            let text = format!(
                "trustDomain: td.test\nca: {{ istiod: {{ address: 'https://ca.test:15012', token: \
                 {token}, roots: /nowhere/roots }} }}\nworkloads:\n- {{ name: web, addresses: [10.0.0.1] }}\n"
            );
            let (faults, _) = opened_mesh(&config::parse("mesh.yaml", &text).unwrap());
            let said: Vec<_> = faults.iter().map(|fault| fault.message.as_str()).collect();
            assert!(said.iter().any(|said| said.starts_with(shown)), "{said:?}");
            assert!(!said.concat().contains("c2VjcmV0"), "{said:?}");
        }
    }
}
