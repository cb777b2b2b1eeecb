//! `ca: { files: … }` of the mesh file.

use std::path::PathBuf;

use super::reader::Item;
use crate::credentials::{Credential, FilesConfig};

/// Reads it: two PEM files, a folder as Kubernetes mounts a TLS secret, or a PKCS#12 store.
pub(super) fn read(item: &Item<'_>) -> Option<FilesConfig> {
    let files =
        item.map(&["certificate", "privateKey", "bundle", "dir", "keystore", "passwordFile"]);
    let path = |key| files.get(key).and_then(|item| item.text()).map(PathBuf::from);
    let [certificate, private_key, bundle, dir, keystore, password] =
        ["certificate", "privateKey", "bundle", "dir", "keystore", "passwordFile"].map(path);
    let credential = match (certificate, private_key, &dir, keystore) {
        (Some(certificate), Some(private_key), None, None) => {
            Credential::Pem { certificate, private_key }
        }
        (None, None, Some(dir), None) => {
            Credential::Pem { certificate: dir.join("tls.crt"), private_key: dir.join("tls.key") }
        }
        (None, None, None, Some(keystore)) => Credential::Keystore { keystore, password },
        _ => {
            item.lacks(
                "expected certificate and privateKey, or dir (with tls.crt, tls.key, ca.crt), or \
                 keystore",
            );
            return None;
        }
    };
    match bundle.or_else(|| dir.map(|dir| dir.join("ca.crt"))) {
        Some(bundle) => Some(FilesConfig { credential, bundle }),
        None => {
            item.lacks("bundle is missing: the authorities that peers' SVIDs are checked against");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        config::{CaConfig, parse},
        credentials::Credential,
    };

    fn read(ca: &str) -> Result<CaConfig, String> {
        let text = format!("trustDomain: td\nca: {{ {ca} }}\n");
        parse("mesh.yaml", &text).map(|checked| checked.ca).map_err(|f| f.to_string())
    }

    #[test]
    fn files_are_named_in_one_of_three_ways() {
        let Ok(CaConfig::Files(dir)) = read("files: { dir: /tls }") else { panic!() };
        assert_eq!(dir.bundle, std::path::Path::new("/tls/ca.crt"));
        assert!(read("files: { certificate: /c, privateKey: /k, bundle: /b }").is_ok());
        let keystore = read("files: { keystore: /s.p12, passwordFile: /p, bundle: /b }");
        let Ok(CaConfig::Files(config)) = keystore else { panic!() };
        assert!(matches!(config.credential, Credential::Keystore { password: Some(_), .. }));
        for (bad, says) in [
            ("files: { certificate: /c, bundle: /b }", "expected certificate and privateKey"),
            ("files: { keystore: /s }", "bundle is missing"),
            ("files: { dir: /a, keystore: /s }", "expected certificate and privateKey"),
            ("files: { dir: /a }, embedded: { dir: /x }", "only one source"),
            ("workloadApi: { socket: 'http://x' }", "is not a valid endpoint"),
            ("", "a source is missing"),
        ] {
            let faults = read(bad).unwrap_err();
            assert!(faults.contains(says), "{bad}: {faults}");
        }
    }
}
