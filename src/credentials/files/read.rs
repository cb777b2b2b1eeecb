//! One set of files, judged as a whole.

use std::time::{Duration, SystemTime};

use pki_types::{CertificateDer, UnixTime};

use super::{super::workload_api::client::key_matches, FilesConfig};
use crate::identity::{
    BundleSet, PrivateKey, Purpose, TrustBundle, TrustDomain, X509Svid,
    key_files::{at, certificates},
    parse_leaf, verify_svid,
};

/// The most authorities in a bundle.
const MOST_AUTHORITIES: usize = 1000;

/// The SVID and the bundle that it verifies with; or which file is wrong, and how.
pub(super) fn read(
    config: &FilesConfig,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(X509Svid, BundleSet), String> {
    let authorities = certificates(&config.bundle)?;
    if authorities.len() > MOST_AUTHORITIES {
        return Err(at(&config.bundle, format!("more than {MOST_AUTHORITIES} certificates")));
    }
    let bundle = TrustBundle::new(trust_domain.clone(), authorities);
    let bundles: BundleSet = [bundle].into_iter().collect();
    let path = config.credential.file();
    let (chain, key) = config.credential.read(None)?;
    let svid = svid(chain, key, trust_domain).map_err(|why| at(path, why))?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let clock = UnixTime::since_unix_epoch(Duration::from_secs(since.as_secs()));
    for purpose in [Purpose::Client, Purpose::Server] {
        verify_svid(&svid.chain, &bundles, clock, purpose).map_err(|e| {
            at(path, format!("with {}: {e}", crate::identity::shown(&config.bundle)))
        })?;
    }
    Ok((svid, bundles))
}

fn svid(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    trust_domain: &TrustDomain,
) -> Result<X509Svid, String> {
    let leaf = parse_leaf(&chain[0]).map_err(|e| e.to_string())?;
    if leaf.id.trust_domain() != trust_domain {
        return Err(format!(
            "it is for trust domain {}, but the mesh file says {trust_domain}",
            leaf.id
        ));
    }
    if !key_matches(&chain[0], &key) {
        return Err(format!("the private key does not belong to the certificate of {}", leaf.id));
    }
    Ok(X509Svid::of(leaf, chain, key))
}
