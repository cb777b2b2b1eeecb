//! Keys that never leave a PKCS#11 token: an HSM, a TPM, a smart card (PKCS #11 3.1).
//!
//! [`open`] finds the private key of a certificate on a token and gives rustls something to sign
//! with. A module is loaded and initialised once per process, a token logged into once; a PIN that
//! was refused is not tried again, as tokens lock after a few. Each signature takes a session of
//! its own out of a pool, so handshakes sign side by side; a token that has lost us (removed,
//! restarted) is looked for once more, then the handshake fails.
//! Not here: certificates, which are read from files.

#[cfg(feature = "pkcs11")]
mod signing;
#[cfg(not(feature = "pkcs11"))]
#[path = "absent.rs"]
mod signing;

use std::{path::PathBuf, sync::Arc};

use pki_types::CertificateDer;
use rustls::sign::SigningKey;
use zeroize::Zeroizing;

/// Which token, and how to log in.
#[derive(Clone)]
pub struct TokenConfig {
    /// The shared library that speaks with it.
    pub module: PathBuf,
    /// Its label; `None` if the module has one token only.
    pub label: Option<String>,
    /// The user's PIN; `None` for a token that asks none, or has a keypad.
    pub pin: Option<Zeroizing<String>>,
}

/// The private key of `leaf`, on the token.
///
/// # Errors
/// Names the module or the token, and what to do.
pub fn open(config: TokenConfig, leaf: &CertificateDer<'_>) -> Result<Arc<dyn SigningKey>, String> {
    let key = signing::TokenKey::find(config, leaf)?;
    Ok(Arc::new(key))
}
