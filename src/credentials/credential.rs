//! A certificate with its key, as both lie in files.

use std::path::{Path, PathBuf};

use pki_types::CertificateDer;

use crate::identity::{
    PrivateKey,
    key_files::{at, bytes, certificates, keystore_chain, password_in, private_key},
};

/// A certificate with its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Credential {
    /// Two files in PEM: the chain, leaf first, and the key (PKCS#8, SEC1 or PKCS#1).
    Pem {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        private_key: PathBuf,
    },
    /// PKCS#12, or certificates and key in one PEM file.
    Keystore {
        /// The store.
        keystore: PathBuf,
        /// A file whose first line is the store's password; none is an empty password.
        password: Option<PathBuf>,
    },
}

impl Credential {
    /// The file with the certificate.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Pem { certificate, .. } => certificate,
            Self::Keystore { keystore, .. } => keystore,
        }
    }

    /// All files that are read.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Pem { certificate, private_key } => {
                vec![certificate.clone(), private_key.clone()]
            }
            Self::Keystore { keystore, password } => {
                std::iter::once(keystore).chain(password).cloned().collect()
            }
        }
    }

    /// The chain, leaf first, and the key. `password` goes before that of a file.
    pub(super) fn read(
        &self,
        password: Option<&str>,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKey), String> {
        match self {
            Self::Pem { certificate, private_key: key } => {
                Ok((certificates(certificate)?, private_key(key)?))
            }
            Self::Keystore { keystore, password: file } => {
                let file =
                    file.as_deref().map(|file| password_in("`passwordFile`", file)).transpose()?;
                let password = password.or(file.as_ref().map(|p| p.as_str()));
                keystore_or_pem(keystore, password.unwrap_or_default())
            }
        }
    }

    /// The chain alone, as far as it can be read without a password.
    pub(super) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        match self {
            Self::Pem { certificate, .. } => certificates(certificate),
            Self::Keystore { keystore, .. } => {
                keystore_or_pem(keystore, "").map(|(chain, _)| chain)
            }
        }
    }
}

/// A keystore is PKCS#12, or certificates and key in one PEM file.
fn keystore_or_pem(
    path: &Path,
    password: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKey), String> {
    let start = bytes(path)?;
    match start.get(..4) {
        Some([0xCE, 0xCE, 0xCE, 0xCE] | [0xFE, 0xED, 0xFE, 0xED]) => Err(at(
            path,
            "is a Java keystore (JKS or JCEKS); `keytool -importkeystore -deststoretype pkcs12` \
             converts it",
        )),
        _ if start.windows(11).take(65_536).any(|w| w == b"-----BEGIN ") => {
            Ok((certificates(path)?, private_key(path)?))
        }
        _ => keystore_chain(path, password),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tools give several forms one name.
    #[test]
    fn a_keystore_may_be_pem_and_one_of_java_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let keystore = dir.path().join("store");
        let credential = Credential::Keystore { keystore: keystore.clone(), password: None };
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        std::fs::write(&keystore, key.serialize_pem() + &certificate.pem()).unwrap();
        let (chain, _) = credential.read(None).unwrap();
        assert_eq!(chain, [certificate.der().clone()]);
        std::fs::write(&keystore, b"\xFE\xED\xFE\xED and more").unwrap();
        let why = credential.read(None).map(drop).unwrap_err();
        assert!(why.contains("is a Java keystore") && why.contains("keytool"), "{why}");
    }
}
