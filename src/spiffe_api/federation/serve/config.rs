//! What the bundle endpoint and the OIDC endpoint serve, where, and with which certificate.

use std::{net::SocketAddr, path::PathBuf};

use super::oidc::Issuer;
use crate::{
    credentials::workload_api::client::key_matches,
    identity::{SpiffeId, key_files},
};

/// What is served.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServeConfig {
    /// Our bundle.
    pub bundle: Option<BundleEndpoint>,
    /// Our JWT keys.
    pub oidc: Option<Oidc>,
}

/// A bundle endpoint (SPIFFE Federation §5).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BundleEndpoint {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The path of the bundle.
    pub path: String,
    /// What it shows.
    pub proof: Proof,
}

/// What a bundle endpoint shows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Proof {
    /// `https_web`
    Web(KeyPairFiles),
    /// `https_spiffe`: the X.509-SVID of this ID, which the source of SVIDs must give.
    Spiffe(SpiffeId),
}

/// A certificate chain and its key, PEM; read again when they change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyPairFiles {
    /// Leaf first.
    pub certificate: PathBuf,
    /// Its key.
    pub private_key: PathBuf,
}

impl KeyPairFiles {
    /// Whether they fit together now.
    ///
    /// # Errors
    /// Which is wrong, and how.
    pub fn check(&self) -> Result<(), String> {
        let chain = key_files::certificates(&self.certificate)?;
        let key = key_files::private_key(&self.private_key)?;
        match chain.first().is_some_and(|leaf| key_matches(leaf, &key)) {
            true => Ok(()),
            false => {
                let why = "the private key does not belong to the certificate";
                Err(key_files::at(&self.certificate, why))
            }
        }
    }
}

/// An `OpenID` provider's public half: discovery document and keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Oidc {
    /// What tokens say in `iss`.
    pub issuer: Issuer,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What it shows; without it, it speaks HTTP, for an ingress that speaks HTTPS.
    pub certificate: Option<KeyPairFiles>,
}
