//! No keys on tokens: this build is without the cargo feature `pkcs11`, and a configuration that
//! names a token is refused before it comes to this.

use pki_types::CertificateDer;
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    sign::{Signer, SigningKey},
};

use super::TokenConfig;
use crate::observe::{Feature, NotBuilt};

/// A key that is never found.
#[derive(Debug)]
pub(super) enum TokenKey {}

impl TokenKey {
    /// Refuses.
    pub(super) fn find(_: TokenConfig, _: &CertificateDer<'_>) -> Result<Self, String> {
        Err(NotBuilt(Feature::Pkcs11).to_string())
    }
}

impl SigningKey for TokenKey {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        match *self {}
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match *self {}
    }
}
