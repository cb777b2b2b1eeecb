//! Certificates and keys as they lie in files: PEM and PKCS#12.

use std::{fs::File, io::Read, path::Path};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
        ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    },
};
use p12_keystore::{CertificateBag, KeyStore, Pkcs12Archive, Pkcs12ImportPolicy, PrivateKeyBag};
use pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use zeroize::Zeroizing;

use super::{PrivateKey, chain_words, pem, secret_advice, secret_file, shown};

/// The largest file that is read, bytes.
const MAX_FILE: u64 = 1 << 20;

/// Names the file, unless its name is a key.
pub fn at(path: &Path, why: impl std::fmt::Display) -> String {
    format!("{}: {why}", shown(path))
}

/// What is in the file, at most 1 MiB.
///
/// # Errors
/// Names the file.
pub fn bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    read(path).map_err(|why| at(path, why))
}

/// The same; an error does not name the file.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::new());
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("is larger than {MAX_FILE} bytes"));
    }
    Ok(bytes)
}

/// The certificates of a PEM file, in its order; at least one.
///
/// # Errors
/// Names the file and what is wrong.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = bytes(path)?;
    match pem::certificates(&text).map_err(|e| at(path, e))? {
        none if none.is_empty() => Err(at(path, "contains no PEM certificate")),
        all => Ok(all),
    }
}

/// The CRLs of a file, PEM or one in DER, in its order; at least one, and each can be read.
///
/// # Errors
/// Names the file and what is wrong.
pub fn crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    match crls_if_any(path)? {
        none if none.is_empty() => Err(at(path, NO_CRL)),
        all => Ok(all),
    }
}

/// The CRLs of a file, PEM or one in DER, in its order; none if the file is empty.
///
/// # Errors
/// As [`crls`].
pub fn crls_if_any(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let bytes = bytes(path)?;
    if bytes.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let all = match bytes.first() {
        Some(0x30) => vec![CertificateRevocationListDer::from(bytes.to_vec())],
        _ => pem::crls(&bytes).map_err(|e| at(path, e))?,
    };
    if all.is_empty() {
        return Err(at(path, NO_CRL));
    }
    for crl in &all {
        webpki::BorrowedCertRevocationList::from_der(crl).map_err(|e| {
            at(path, format!("contains a CRL that cannot be used: {}", chain_words(&e)))
        })?;
    }
    Ok(all)
}

const NO_CRL: &str = "contains no PEM CRL";

/// The only private key of a PEM file: PKCS#8, SEC1 or PKCS#1, fit for TLS.
///
/// # Errors
/// Names the file and what is wrong; never what is in it.
pub fn private_key(path: &Path) -> Result<PrivateKey, String> {
    let text = bytes(path)?;
    let key = pem::private_key(&text).map_err(|e| at(path, e))?;
    let key = key.ok_or_else(|| at(path, "contains no PEM private key"))?;
    let pkcs8 = pkcs8(&key).ok_or_else(|| {
        at(path, "contains a private key of an unknown kind; `openssl pkcs8 -topk8` converts it")
    })?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice()));
    // Whatever it is: TLS must be able to sign with it.
    any_supported_type(&key).map_err(|_| {
        at(
            path,
            "contains a private key that TLS cannot use: it is damaged, or not RSA of 2048 \
                  to 8192 bits, ECDSA on P-256, P-384 or P-521, or Ed25519",
        )
    })?;
    Ok(PrivateKey::from_pkcs8(pkcs8))
}

/// A key as PKCS#8, from whichever of the three forms PEM files have.
fn pkcs8(key: &PrivateKeyDer<'_>) -> Option<Vec<u8>> {
    match key {
        PrivateKeyDer::Pkcs8(key) => Some(key.secret_pkcs8_der().to_vec()),
        PrivateKeyDer::Sec1(key) => {
            let curves = [
                &ECDSA_P256_SHA256_ASN1_SIGNING,
                &ECDSA_P384_SHA384_ASN1_SIGNING,
                &ECDSA_P521_SHA512_ASN1_SIGNING,
            ];
            let der = key.secret_sec1_der();
            let read = |curve| EcdsaKeyPair::from_private_key_der(curve, der).ok();
            let pair = curves.into_iter().find_map(read)?;
            Some(pair.to_pkcs8v1().ok()?.as_ref().to_vec())
        }
        PrivateKeyDer::Pkcs1(key) => {
            let pair = rsa::KeyPair::from_der(key.secret_pkcs1_der()).ok()?;
            let der: Pkcs8V1Der<'_> = pair.as_der().ok()?;
            Some(der.as_ref().to_vec())
        }
        _ => None,
    }
}

/// The first line of a password file, which is named by the `key` of a configuration.
///
/// # Errors
/// Names the file, or the key where its path may be the password itself, and what is wrong.
pub fn password_in(key: &str, path: &Path) -> Result<Zeroizing<String>, String> {
    let failed = |why: &str| {
        let (file, advice) = (secret_file(key, path), secret_advice(key, path));
        format!("{file} cannot be read: {why}{advice}")
    };
    let text = read(path).map_err(|why| failed(&why))?;
    let text = std::str::from_utf8(&text).map_err(|_| failed("it is not text"))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// The chain, leaf first and without a root, and the key of a PKCS#12 store.
///
/// # Errors
/// Names the file and what is wrong.
pub fn keystore_chain(
    path: &Path,
    password: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKey), String> {
    let bytes = bytes(path)?;
    let archive = Pkcs12Archive::from_pkcs12(&bytes, password);
    let archive = archive.map_err(|e| at(path, unopened(&e, password)))?;
    if archive.keys.len() > 1 {
        let names = archive.keys.iter().take(8).map(|key| named(key, &archive.certs));
        let names = names.collect::<Vec<_>>().join(", ");
        let why = format!(
            "contains {} private keys ({names}), expected one: keep only the one to use",
            archive.keys.len()
        );
        return Err(at(path, why));
    }
    let store = KeyStore::from_pkcs12(&bytes, password, Pkcs12ImportPolicy::Strict)
        .map_err(|e| at(path, unopened(&e, password)))?;
    let Some((_, entry)) = store.private_key_chain() else {
        return Err(at(path, "contains no private key with its chain"));
    };
    let chain: Vec<_> =
        entry.certs().iter().map(|c| CertificateDer::from(c.as_der().to_vec())).collect();
    // Some stores add the root, which is not sent.
    let chain = match chain.split_last() {
        Some((last, rest)) if !rest.is_empty() && is_self_issued(last) => rest.to_vec(),
        _ => chain,
    };
    if chain.is_empty() {
        return Err(at(path, "contains no certificate"));
    }
    Ok((chain, PrivateKey::from_pkcs8(entry.key().as_der().to_vec())))
}

/// Why a store cannot be opened, and what to do; nothing of what is in it.
fn unopened(error: &p12_keystore::error::Error, password: &str) -> &'static str {
    use p12_keystore::error::Error;
    match error {
        Error::UnsupportedEncryptionScheme | Error::UnsupportedMacAlgorithm => {
            "is encrypted in an unsupported way; `openssl pkcs12 -in OLD -nodes | openssl \
             pkcs12 -export -out NEW` converts it"
        }
        Error::MacError(_) if password.is_empty() => {
            "is encrypted, and no password is given: use --storepass or `passwordFile`"
        }
        Error::MacError(_) => "cannot be opened with this password",
        _ => "cannot be opened: not PKCS#12, damaged, or a wrong password",
    }
}

/// How the operator knows a key: its name in the store, or whom its certificate is of.
fn named(key: &PrivateKeyBag, certificates: &[CertificateBag]) -> String {
    let of_key = |bag: &&CertificateBag| {
        key.local_key_id.as_ref().is_some_and(|id| bag.local_key_id.as_ref() == Some(&id.0))
    };
    let subject = || certificates.iter().find(of_key).map(|bag| bag.cert.subject().into());
    match key.friendly_name.clone().filter(|name| !name.is_empty()).or_else(subject) {
        Some(name) => format!("{:?}", name.chars().take(100).collect::<String>()),
        None => "a key without a name".to_owned(),
    }
}

fn is_self_issued(der: &CertificateDer<'_>) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(der).is_ok_and(|(_, c)| c.subject() == c.issuer())
}

#[cfg(test)]
mod tests {
    use p12_keystore::{
        Certificate, EncryptionAlgorithm as Cipher, KeyStore, KeyStoreEntry, MacAlgorithm as Mac,
        PrivateKey as Key, PrivateKeyChain,
    };
    use rcgen::{CertificateParams, Issuer, KeyPair};

    use super::*;

    struct Made {
        key: KeyPair,
        leaf: Vec<u8>,
        root: Vec<u8>,
    }

    fn made() -> Made {
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "root");
        let root = params.self_signed(&root_key).unwrap().der().to_vec();
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "leaf");
        let leaf = leaf.signed_by(&key, &Issuer::new(params, root_key)).unwrap().der().to_vec();
        Made { key, leaf, root }
    }

    impl Made {
        fn entry(&self, id: &str, chain: &[&Vec<u8>]) -> KeyStoreEntry {
            let key = Key::from_der(&self.key.serialize_der()).unwrap();
            let chain = chain.iter().map(|der| Certificate::from_der(der).unwrap());
            KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new(id, key, chain.collect::<Vec<_>>()))
        }

        fn store(&self, chain: &[&Vec<u8>]) -> KeyStore {
            let mut store = KeyStore::new();
            store.add_entry("db", self.entry("1", chain));
            store
        }
    }

    /// Seconds each.
    mod slow {
        use super::*;

        /// Whatever it was made with, if the password is right; and nothing of what is damaged.
        #[test]
        fn a_pkcs12_store_is_opened_whole_or_not_at_all() {
            let (made, dir) = (made(), tempfile::tempdir().unwrap());
            let open = |bytes: &[u8], password: &str| {
                let path = dir.path().join("s.p12");
                std::fs::write(&path, bytes).unwrap();
                keystore_chain(&path, password)
            };
            let both = [&made.leaf, &made.root];
            for cipher in
                [Cipher::PbeWithShaAnd3KeyTripleDesCbc, Cipher::PbeWithHmacSha256AndAes256]
            {
                for mac in [Mac::HmacSha1, Mac::HmacSha256] {
                    for password in ["s3cret", "", "p\u{e4}ss w\u{f6}rd", &"long".repeat(100)] {
                        let store = made.store(&both);
                        let writer = store.writer(password).encryption_algorithm(cipher);
                        let writer = writer.encryption_iterations(500).mac_iterations(500);
                        let bytes = writer.mac_algorithm(mac).write().unwrap();
                        let (chain, key) = open(&bytes, password).unwrap();
                        assert_eq!(chain, [CertificateDer::from(made.leaf.clone())], "no root");
                        assert_eq!(key.pkcs8(), made.key.serialize_der());
                        for wrong in ["S3cret", "s3cret ", "guess"] {
                            let error = open(&bytes, wrong).unwrap_err();
                            assert!(!error.contains(wrong), "{error}");
                        }
                    }
                }
            }
            let store = made.store(&both);
            let writer = store.writer("s3cret").encryption_iterations(100).mac_iterations(100);
            let bytes = writer.write().unwrap();
            let same = |bytes: &[u8]| match open(bytes, "s3cret") {
                Ok((chain, key)) => {
                    chain == [CertificateDer::from(made.leaf.clone())]
                        && key.pkcs8() == made.key.serialize_der()
                }
                Err(_) => false,
            };
            for cut in (0..bytes.len()).step_by(101) {
                assert!(open(&bytes[..cut], "s3cret").is_err(), "{cut} bytes of it");
            }
            // A byte that says nothing may be another; what is taken is what was put there.
            for at in (0..bytes.len()).step_by(89) {
                let mut changed = bytes.clone();
                changed[at] ^= 0x15;
                assert!(open(&changed, "s3cret").is_err() || same(&changed), "byte {at}");
            }
            let mut keys = made.store(&both);
            keys.add_entry("other", made.entry("2", &both));
            let mut certificates = KeyStore::new();
            let root = Certificate::from_der(&made.root).unwrap();
            certificates.add_entry("ca", KeyStoreEntry::Certificate(root));
            for (name, bytes) in [
                ("two keys", keys.writer("s3cret").write().unwrap()),
                ("no key", certificates.writer("s3cret").write().unwrap()),
                ("no certificate", made.store(&[]).writer("s3cret").write().unwrap_or_default()),
                ("nothing", KeyStore::new().writer("s3cret").write().unwrap()),
                ("an empty file", Vec::new()),
                ("a certificate", made.leaf.clone()),
                ("a key", made.key.serialize_der()),
                ("text", b"keystore".to_vec()),
                ("zeros", vec![0; 4096]),
            ] {
                let error = open(&bytes, "s3cret").unwrap_err();
                assert!(error.contains("s.p12") && !error.contains("s3cret"), "{name}: {error}");
            }
        }
    }
}
