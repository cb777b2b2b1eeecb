//! Which identity a bundle endpoint must prove: TLS by the profile (SPIFFE Federation §5.2).

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, client::Resumption};

use super::error::FetchError;
use crate::{
    identity::{BundleSet, SpiffeId, TrustBundle, chain_words, key_files},
    tls::{Naming, PeerTrust, PeerVerifier, Verifier, classic_provider, only_server, web_provider},
};

/// `https_web`: a certificate for the host name, from the roots in a file or from the system's.
pub(super) fn web(roots: Option<&Path>) -> Result<Arc<ClientConfig>, FetchError> {
    let (path, trusted) = match roots {
        Some(path) => {
            let trusted = key_files::certificates(path).map_err(FetchError::read)?;
            for root in &trusted {
                webpki::anchor_from_trusted_cert(root)
                    .map_err(|e| FetchError::file(path, chain_words(&e)))?;
            }
            (path, trusted)
        }
        None => {
            let (path, system) =
                (Path::new("/etc/ssl/certs"), rustls_native_certs::load_native_certs());
            if system.certs.is_empty() {
                let why = format!(
                    "the system has no roots for the public web ({}); name some in `roots`",
                    crate::identity::counted(system.errors.len(), "error")
                );
                return Err(FetchError::file(path, why));
            }
            (path, system.certs)
        }
    };
    let verifier = PeerVerifier::new(PeerTrust::roots(trusted), true);
    let verifier = verifier.map_err(|e| FetchError::file(path, e))?;
    let config = ClientConfig::builder_with_provider(web_provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| FetchError::file(Path::new("TLS"), e))?
        .dangerous()
        .with_custom_certificate_verifier(Verifier::new(Naming(verifier), classic_provider()))
        .with_no_client_auth();
    Ok(finished(config))
}

/// `https_spiffe`: the X.509-SVID `endpoint_id`, by this bundle and no other.
pub(super) fn spiffe(
    endpoint_id: &SpiffeId,
    bundle: TrustBundle,
) -> Result<Arc<ClientConfig>, FetchError> {
    let verifier = only_server(endpoint_id.clone(), BundleSet::from_iter([bundle]));
    let config = ClientConfig::builder_with_provider(web_provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| FetchError::file(Path::new("TLS"), e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(finished(config))
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
