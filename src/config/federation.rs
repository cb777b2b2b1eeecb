//! The section `federation` of the mesh file: the federated trust domains, and the bundle endpoint
//! and OIDC documents that adit serves to them.

use std::{net::SocketAddr, path::PathBuf};

use super::{
    reader::{Item, Map},
    restart::changed,
};
use crate::{
    identity::{SpiffeId, TrustDomain},
    spiffe_api::federation::{
        BundleEndpoint, BundleFrom, EndpointUrl, Issuer, KeyPairFiles, Oidc, Profile, Proof,
        Relation, ServeConfig,
    },
};

/// The federation with other trust domains.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FederationConfig {
    /// The federated trust domains.
    pub trust_domains: Vec<Relation>,
    /// Where the last good bundles are kept across restarts.
    pub state_dir: Option<PathBuf>,
    /// What adit serves to them.
    pub serve: ServeConfig,
}

#[derive(Clone, Copy)]
enum EndpointProfile {
    Web,
    Spiffe,
}

const PROFILES: &[(&str, EndpointProfile)] =
    &[("https_web", EndpointProfile::Web), ("https_spiffe", EndpointProfile::Spiffe)];

impl FederationConfig {
    /// The keys of settings that differ in `now` and take effect only after a restart.
    #[must_use]
    pub fn restart_keys(&self, now: &Self) -> Vec<&'static str> {
        let Self { trust_domains: _, state_dir, serve } = self;
        changed(&[
            ("federation.serve", *serve != now.serve),
            ("federation.stateDir", *state_dir != now.state_dir),
        ])
    }

    /// Reads the section, if it is there; `own` is the trust domain of the file.
    pub(super) fn read(top: &Map<'_>, own: &TrustDomain) -> Self {
        let Some(section) = top.get("federation") else { return Self::default() };
        let section = section.map(&["trustDomains", "stateDir", "serve"]);
        let mut trust_domains: Vec<Relation> = Vec::new();
        let items = section.list("trustDomains");
        let read = |item| Some((relation(item)?, item));
        let relations: Vec<(Relation, &Item<'_>)> = items.iter().filter_map(read).collect();
        check_chain(own, &relations);
        for (relation, item) in relations {
            if relation.trust_domain == *own {
                item.fault(format!("{own} is adit's own trust domain: its bundle comes from `ca`"));
            }
            if trust_domains.iter().any(|r| r.trust_domain == relation.trust_domain) {
                item.fault(format!("{} already exists", relation.trust_domain));
            }
            trust_domains.push(relation);
        }
        Self {
            trust_domains,
            state_dir: section.get("stateDir").and_then(|d| d.text()).map(Into::into),
            serve: section.get("serve").map(|s| serve(&s, own)).unwrap_or_default(),
        }
    }
}

fn path(map: &Map<'_>, key: &str) -> Option<PathBuf> {
    map.get(key).and_then(|p| p.text()).map(Into::into)
}

fn relation(item: &Item<'_>) -> Option<Relation> {
    let map = item.map(&["name", "bundleEndpoint", "bundleFile"]);
    let trust_domain = map.require("name")?.parse("other.example")?;
    let from = match (map.get("bundleEndpoint"), map.get("bundleFile")) {
        (Some(endpoint), None) => endpoint_of(&endpoint)?,
        (None, Some(file)) => BundleFrom::File(file.text()?.into()),
        _ => {
            item.lacks("expected either bundleEndpoint or bundleFile");
            return None;
        }
    };
    Some(Relation { trust_domain, from })
}

fn endpoint_of(item: &Item<'_>) -> Option<BundleFrom> {
    let map = item.map(&["url", "profile", "endpointId", "bundle", "roots"]);
    let url = map.require("url").and_then(|u| u.parse::<EndpointUrl>("https://host/bundle"));
    let kind = map.require("profile").and_then(|p| p.word(PROFILES))?;
    let none_of = |keys: &[&str], why: &str| {
        keys.iter().filter_map(|key| map.get(key)).for_each(|item| item.fault(why));
    };
    let profile = match kind {
        EndpointProfile::Web => {
            none_of(&["endpointId", "bundle"], "is only for profile https_spiffe");
            Profile::Web { roots: path(&map, "roots") }
        }
        EndpointProfile::Spiffe => {
            none_of(&["roots"], "is only for profile https_web");
            let endpoint_id = id(&map.require("endpointId")?)?;
            Profile::Spiffe { endpoint_id, bundle: path(&map, "bundle") }
        }
    };
    Some(BundleFrom::Endpoint { url: url?, profile })
}

/// The ID of a server's SVID.
fn id(item: &Item<'_>) -> Option<SpiffeId> {
    let id: SpiffeId = item.parse("spiffe://other.example/bundle-endpoint")?;
    if id.path().is_empty() {
        item.fault("has no path, so no SVID can have it (X509-SVID §2)");
        return None;
    }
    Some(id)
}

/// An endpoint's SVID must be checked against something from the first visit on.
fn check_chain(own: &TrustDomain, relations: &[(Relation, &Item<'_>)]) {
    for (relation, item) in relations {
        let BundleFrom::Endpoint { profile: Profile::Spiffe { endpoint_id, bundle: None }, .. } =
            &relation.from
        else {
            continue;
        };
        let shown = endpoint_id.trust_domain();
        let known = |(other, _): &(Relation, &Item<'_>)| {
            other.trust_domain == *shown && other.trust_domain != relation.trust_domain
        };
        if shown != own && !relations.iter().any(known) {
            item.fault(format!(
                "bundle is missing: the endpoint shows an SVID of {shown}, so adit needs that \
                 trust domain's bundle for the first fetch"
            ));
        }
    }
}

fn serve(item: &Item<'_>, own: &TrustDomain) -> ServeConfig {
    let map = item.map(&["listen", "profile", "path", "id", "certificate", "privateKey", "oidc"]);
    let bundle = match (map.get("listen"), map.get("oidc")) {
        (None, Some(_)) => {
            for key in ["profile", "path", "id", "certificate", "privateKey"] {
                if let Some(item) = map.get(key) {
                    item.fault("is only for the bundle endpoint, which needs `listen`");
                }
            }
            None
        }
        _ => bundle_endpoint(&map, own),
    };
    ServeConfig { bundle, oidc: map.get("oidc").and_then(|o| oidc(&o)) }
}

fn bundle_endpoint(map: &Map<'_>, own: &TrustDomain) -> Option<BundleEndpoint> {
    let listen = listen(map);
    let kind = map.require("profile").and_then(|p| p.word(PROFILES))?;
    let proof = match kind {
        EndpointProfile::Web => {
            if let Some(item) = map.get("id") {
                item.fault("is only for profile https_spiffe");
            }
            Proof::Web(key_pair(map)?)
        }
        EndpointProfile::Spiffe => {
            for item in ["certificate", "privateKey"].iter().filter_map(|key| map.get(key)) {
                item.fault("is only for profile https_web");
            }
            let usual = || format!("spiffe://{own}/adit/bundle-endpoint").parse().ok();
            let id = map.get("id").map_or_else(usual, |item| id(&item))?;
            if let Some(item) = map.get("id").filter(|_| id.trust_domain() != own) {
                item.fault(format!("is not in {own}, so adit cannot get an SVID for it"));
            }
            Proof::Spiffe(id)
        }
    };
    let path = map.get("path").map_or(Some("/".into()), |p| p.text())?;
    if !path.starts_with('/') || path.contains(['?', '#']) {
        map.get("path")?.fault("must begin with / and must not have a query");
    }
    Some(BundleEndpoint { listen: listen?, path, proof })
}

fn listen(map: &Map<'_>) -> Option<SocketAddr> {
    map.require("listen")?.parse("[::]:8443")
}

fn key_pair(map: &Map<'_>) -> Option<KeyPairFiles> {
    let (certificate, private_key) = (map.require("certificate"), map.require("privateKey"));
    Some(KeyPairFiles {
        certificate: certificate?.text()?.into(),
        private_key: private_key?.text()?.into(),
    })
}

fn oidc(item: &Item<'_>) -> Option<Oidc> {
    let map = item.map(&["issuer", "listen", "certificate", "privateKey"]);
    let issuer = map.require("issuer").and_then(|i| i.parse::<Issuer>("https://oidc.example"));
    let listen = listen(&map);
    let tls = map.get("certificate").is_some() || map.get("privateKey").is_some();
    let certificate = if tls { Some(key_pair(&map)?) } else { None };
    Some(Oidc { issuer: issuer?, listen: listen?, certificate })
}

#[cfg(test)]
mod tests;
