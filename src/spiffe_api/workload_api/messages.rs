//! The messages of the Workload API, made of what a caller may have. Keys of maps are SPIFFE IDs
//! of trust domains; a trust domain that has nothing to offer is left out, which redacts it
//! (Workload API §4.4).

use std::collections::HashMap;

use super::feed::{Message, Needs, View};
use crate::{
    identity::{TrustBundle, TrustDomain},
    rpc::workload::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse},
};

/// As many bytes as clients take by default.
const USUAL_LIMIT: usize = 4 << 20;

impl Message for X509svidResponse {
    const NEEDS: Needs = Needs::Svids;

    fn whole(view: &View) -> Self {
        let bundle = view.bundles.get(&view.trust_domain).map(authorities).unwrap_or_default();
        let svid =
            |(given, svid): &(super::Entitlement, std::sync::Arc<crate::identity::X509Svid>)| {
                X509svid {
                    spiffe_id: svid.id.to_string(),
                    x509_svid: svid.chain.iter().flat_map(|der| der.iter().copied()).collect(),
                    x509_svid_key: svid.key.pkcs8().to_vec(),
                    bundle: bundle.clone(),
                    hint: given.hint.to_string(),
                }
            };
        let foreign = |bundle: &&TrustBundle| bundle.trust_domain != view.trust_domain;
        warn_if_large(Self {
            svids: view.svids.iter().map(svid).collect(),
            crl: crls(view),
            federated_bundles: by_domain(view.bundles.iter().filter(foreign)),
        })
    }

    fn redact(&mut self) {
        // A key of its own comes with each leaf.
        for svid in &mut self.svids {
            zeroize::Zeroize::zeroize(&mut svid.x509_svid_key);
        }
    }
}

impl Message for X509BundlesResponse {
    const NEEDS: Needs = Needs::Identity;

    fn whole(view: &View) -> Self {
        warn_if_large(Self { crl: crls(view), bundles: by_domain(view.bundles.iter()) })
    }
}

impl Message for JwtBundlesResponse {
    const NEEDS: Needs = Needs::Identity;

    fn whole(view: &View) -> Self {
        let some = view.bundles.iter().filter(|bundle| !bundle.jwt_authorities.is_empty());
        let set = |b: &TrustBundle| (domain_id(&b.trust_domain), b.to_jwks().to_string().into());
        warn_if_large(Self { bundles: some.map(set).collect() })
    }
}

/// The SPIFFE ID of a trust domain.
pub(super) fn domain_id(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

fn authorities(bundle: &TrustBundle) -> Vec<u8> {
    bundle.authorities.iter().flat_map(|der| der.iter().copied()).collect()
}

fn by_domain<'a>(bundles: impl Iterator<Item = &'a TrustBundle>) -> HashMap<String, Vec<u8>> {
    let some = bundles.filter(|bundle| !bundle.authorities.is_empty());
    some.map(|bundle| (domain_id(&bundle.trust_domain), authorities(bundle))).collect()
}

fn crls(view: &View) -> Vec<Vec<u8>> {
    let all = view.bundles.iter().flat_map(|bundle| &bundle.crls);
    all.map(|crl| crl.as_ref().to_vec()).collect()
}

fn warn_if_large<M: prost::Message>(message: M) -> M {
    let bytes = message.encoded_len();
    if bytes > USUAL_LIMIT {
        tracing::warn!(
            target: "workload_api", bytes,
            "a message is larger than the 4 MiB that clients accept by default; reduce the number \
             of federated bundles or CRLs"
        );
    }
    message
}
