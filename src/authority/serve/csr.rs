//! What a certificate signing request must be before its key is certified.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{
        OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
    },
    prelude::FromDer,
    public_key::PublicKey,
};

use crate::identity::{SpiffeId, pem};

/// The longest CSR that is looked at.
pub(super) const LONGEST: usize = 16 << 10;

/// Why a CSR is not certified.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CsrError {
    /// Not one PKCS#10 in PEM.
    #[error("the CSR is not a PEM-encoded PKCS#10 request: {0}")]
    Malformed(String),
    /// Its signature is not of its key.
    #[error("the CSR is not signed with its own key")]
    Signature,
    /// A key that is too weak, or of a kind that is not taken.
    #[error("the CSR's key must be P-256, P-384, Ed25519 or RSA of 2048 to 8192 bits")]
    Key,
    /// It names somebody else.
    #[error("the CSR is for {0:?}, which is not the identity that was requested")]
    OtherName(String),
}

/// The key of a CSR that may be certified for `wanted`.
///
/// # Errors
/// The first rule it breaks.
pub(super) fn check(text: &str, wanted: &SpiffeId) -> Result<SubjectPublicKeyInfo, CsrError> {
    let bad = |e: &dyn std::fmt::Display| CsrError::Malformed(e.to_string());
    if text.len() > LONGEST {
        return Err(bad(&"longer than 16 KiB"));
    }
    let der = pem::request(text.as_bytes()).map_err(|e| bad(&e))?;
    let der = der.ok_or_else(|| bad(&"expected exactly one PEM item"))?;
    let (rest, csr) = X509CertificationRequest::from_der(&der).map_err(|e| bad(&e))?;
    if !rest.is_empty() {
        return Err(bad(&"other bytes follow it"));
    }
    let signed_with = &csr.signature_algorithm.algorithm;
    let hashes = [
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519,
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
    ];
    if !hashes.contains(signed_with) {
        return Err(CsrError::Key);
    }
    let info = &csr.certification_request_info;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| CsrError::Key)?;
    let strong = match info.subject_pki.parsed().map_err(|_| CsrError::Key)? {
        PublicKey::RSA(rsa) => (2048..=8192).contains(&rsa.key_size()),
        PublicKey::EC(point) => matches!(point.data().len(), 65 | 97),
        _ => *signed_with == OID_SIG_ED25519,
    };
    if !strong {
        return Err(CsrError::Key);
    }
    csr.verify_signature().map_err(|_| CsrError::Signature)?;
    for extension in csr.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(san) => {
                for name in &san.general_names {
                    if !matches!(name, GeneralName::URI(uri) if *uri == wanted.as_str()) {
                        return Err(CsrError::OtherName(
                            name.to_string().chars().take(300).collect(),
                        ));
                    }
                }
            }
            ParsedExtension::ParseError { error } => return Err(bad(error)),
            _ => {} // usages and constraints are the CA's to say
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
        PublicKeyData, SanType,
    };

    use super::*;

    fn request(key: &KeyPair, sans: &[SanType]) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = sans.to_vec();
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn a_csr_names_nobody_or_who_is_wanted() {
        let id: SpiffeId = "spiffe://td/ns/a/sa/b".parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let other = "spiffe://td/ns/a/sa/c";
        assert!(check(&request(&key, &[]), &id).is_ok());
        let checked = check(&request(&key, &[uri(id.as_str())]), &id).unwrap();
        assert_eq!(checked.subject_public_key_info(), key.subject_public_key_info());
        for sans in [
            vec![uri(other)],
            vec![uri(id.as_str()), uri(other)],
            vec![SanType::DnsName("a.test".try_into().unwrap())],
        ] {
            let refused = check(&request(&key, &sans), &id);
            assert!(matches!(refused, Err(CsrError::OtherName(_))), "{sans:?}");
        }
    }

    /// What else a request may ask for is not its to say, or is a reason to refuse it.
    #[test]
    fn what_a_csr_may_try() {
        let id: SpiffeId = "spiffe://td/ns/a/sa/b".parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let own = || uri(id.as_str());
        let as_ca = |params: &mut CertificateParams| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        };
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![own()];
        as_ca(&mut params);
        params.distinguished_name.push(rcgen::DnType::CommonName, "spiffe://td/ns/a/sa/c");
        // Its key, if anything: a subject, usages and constraints are the CA's to say.
        if let Ok(request) = params.serialize_request(&key) {
            let checked = check(&request.pem().unwrap(), &id).unwrap();
            assert_eq!(checked.subject_public_key_info(), key.subject_public_key_info());
        }
        let near = ["SPIFFE://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b/", "spiffe://TD/ns/a/sa/b"];
        let mut others: Vec<_> = near.map(uri).into();
        others.extend([
            SanType::IpAddress([10, 0, 0, 1].into()),
            SanType::Rfc822Name("a@a.test".try_into().unwrap()),
            uri(""),
            uri("spiffe://td"),
            uri("spiffe://td/ns/a/sa/b?x"),
        ]);
        for other in others {
            for sans in [vec![other.clone()], vec![own(), other.clone()], vec![other, own()]] {
                let refused = check(&request(&key, &sans), &id);
                assert!(matches!(refused, Err(CsrError::OtherName(_))), "{sans:?}: {refused:?}");
            }
        }
        let good = request(&key, &[own()]);
        let longer = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        for (name, text) in [
            ("two", format!("{good}{good}")),
            ("none", String::new()),
            ("another label", good.replace("CERTIFICATE REQUEST", "CERTIFICATE")),
            ("a key in its place", key.serialize_pem()),
            ("a key beside it", format!("{}{good}", key.serialize_pem())),
            ("cut", good[..good.len() / 2].to_owned()),
            ("without its end", good.lines().take(4).collect::<Vec<_>>().join("\n")),
            ("another curve", request(&longer, &[own()])),
        ] {
            assert!(check(&text, &id).is_err(), "{name}");
        }
    }

    #[test]
    fn keys_and_signatures() {
        let id: SpiffeId = "spiffe://td/ns/a/sa/b".parse().unwrap();
        for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(kind).unwrap();
            assert!(check(&request(&key, &[]), &id).is_ok(), "{kind:?}");
        }
        let pem = request(&KeyPair::generate().unwrap(), &[uri(id.as_str())]);
        let der = pem::request(pem.as_bytes()).unwrap().unwrap();
        let encode = |der: &[u8]| {
            use base64::{Engine, engine::general_purpose::STANDARD};
            let base64 = STANDARD.encode(der);
            format!(
                "-----BEGIN CERTIFICATE REQUEST-----\n{base64}\n-----END CERTIFICATE REQUEST-----\n"
            )
        };
        assert!(check(&encode(&der), &id).is_ok());
        let (_, csr) = X509CertificationRequest::from_der(&der).unwrap();
        let signed = csr.certification_request_info.raw;
        let start = der.windows(signed.len()).position(|w| w == signed).unwrap();
        for at in start..start + signed.len() {
            let mut changed = der.to_vec();
            changed[at] ^= 1;
            assert!(check(&encode(&changed), &id).is_err(), "byte {at}");
        }
        let mut longer = der.to_vec();
        longer.push(0);
        for junk in [encode(&longer), encode(b""), "junk".into(), "x".repeat(LONGEST + 1)] {
            assert!(matches!(check(&junk, &id), Err(CsrError::Malformed(_))));
        }
    }

    /// Seconds each.
    mod slow {
        use super::*;

        /// A key of 1024 bits, and one of 2048, from openssl: we make no weak ones.
        #[test]
        fn a_weak_rsa_key_is_not_certified() {
            let id: SpiffeId = "spiffe://td/a".parse().unwrap();
            for (bits, taken) in [("1024", false), ("2048", true)] {
                let mut openssl = std::process::Command::new("openssl");
                openssl.args(["req", "-new", "-nodes", "-subj", "/CN=a", "-keyout", "/dev/null"]);
                let made =
                    openssl.args(["-newkey", &format!("rsa:{bits}")]).output().expect("openssl");
                let text = String::from_utf8(made.stdout).unwrap();
                let checked = check(&text, &id);
                assert_eq!(
                    checked.as_ref().err(),
                    (!taken).then_some(&CsrError::Key),
                    "{bits}: {text}"
                );
            }
        }
    }
}
