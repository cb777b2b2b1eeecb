use prost::Message;

use pki_types::pem::PemObject;

use super::*;

/// `field << 3 | wire type`, length, bytes; lengths under 128 only.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    assert!(length < 128);
    [&[number << 3 | 2, length], bytes].concat()
}

#[test]
fn the_request_on_the_wire_is_what_istiod_reads() {
    let id: SpiffeId = "spiffe://td/ns/a/sa/b".parse().unwrap();
    let sent = message(&id, "CSR".into(), Duration::from_secs(86_400)).encode_to_vec();
    let value = field(3, b"spiffe://td/ns/a/sa/b"); // Value.string_value
    let entry = [field(1, b"ImpersonatedIdentity"), field(2, &value)].concat(); // map entry
    let metadata = field(1, &entry); // Struct.fields
    let expected = [
        field(1, b"CSR"),
        vec![3 << 3, 0x80, 0xa3, 0x05], // 86,400 as a varint
        field(4, &metadata),
    ];
    assert_eq!(sent, expected.concat());
}

#[test]
fn the_csr_has_one_critical_uri_and_nobody_elses_key() {
    use x509_parser::{
        certification_request::X509CertificationRequest, extensions::ParsedExtension,
        prelude::FromDer,
    };
    let key = KeyPair::generate().unwrap();
    let pem = csr(&"spiffe://td/ns/a/sa/b".parse().unwrap(), &key).unwrap();
    let der = pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&der).unwrap();
    let info = &parsed.certification_request_info;
    assert_eq!(info.subject.iter().count(), 0);
    assert_eq!(info.subject_pki.raw, key.subject_public_key_info());
    let extensions: Vec<_> = parsed.requested_extensions().unwrap().collect();
    let [ParsedExtension::SubjectAlternativeName(san)] = extensions.as_slice() else {
        panic!("{extensions:?}")
    };
    assert_eq!(san.general_names.len(), 1);
    // extnID subjectAltName, critical TRUE.
    let critical = [0x06, 0x03, 0x55, 0x1d, 0x11, 0x01, 0x01, 0xff];
    assert!(der.windows(critical.len()).any(|w| w == critical));
}

mod answers {
    use std::time::SystemTime;

    use crate::{
        credentials::istiod::answer::check,
        identity::{KeyUsageRule, SpiffeId},
    };
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
        PublicKeyData, SanType,
    };

    struct Ca {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    fn ca(name: &str, by: Option<&Ca>) -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = match by {
            None => params.self_signed(&key).unwrap().pem(),
            Some(ca) => params.signed_by(&key, &ca.issuer).unwrap().pem(),
        };
        Ca { pem, issuer: Issuer::new(params, key) }
    }

    fn leaf(id: &str, key: &KeyPair, ca: &Ca) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.signed_by(key, &ca.issuer).unwrap().pem()
    }

    #[test]
    fn an_answer_is_taken_whole_or_not_at_all() {
        const ID: &str = "spiffe://td/ns/a/sa/b";
        let id: SpiffeId = ID.parse().unwrap();
        let (root, other) = (ca("root", None), ca("other", None));
        let between = ca("between", Some(&root));
        let (key, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let good = leaf(ID, &key, &between);
        let judge = |elements: &[&str]| {
            let elements: Vec<String> = elements.iter().map(|e| (*e).to_owned()).collect();
            check(
                &elements,
                &id,
                &key.subject_public_key_info(),
                KeyUsageRule::Required,
                SystemTime::now(),
            )
        };
        let both = format!("{}{}", root.pem, other.pem);
        let taken = judge(&[&good, &between.pem, &both]).unwrap();
        assert_eq!((taken.chain.len(), taken.bundle.authorities.len()), (2, 2));
        let taken = judge(&[&good, &between.pem, &root.pem, &root.pem]).unwrap();
        assert_eq!(taken.chain.len(), 2, "a root is not an intermediate");
        for (elements, why) in [
            (vec![], "0 elements"),
            (vec![&*good], "has 1 element, so the root is missing"),
            (vec![&*good, &*root.pem], "does not lead to the bundle"),
            (vec![&*good, &*between.pem, &*other.pem], "does not lead to the bundle"),
            (vec![&*good, "junk", &*root.pem], "contains no PEM certificate"),
            (vec!["", &*root.pem], "contains no PEM certificate"),
            (vec![&*good, &*between.pem, "junk"], "0 roots"),
            (vec![&*good; 9], "9 elements, the limit is 8"),
            (
                vec![&*leaf("spiffe://td/ns/a/sa/c", &key, &root), &*root.pem],
                "its leaf certificate is for",
            ),
            (
                vec![&*leaf(ID, &stranger, &root), &*root.pem],
                "its leaf certificate is for another key",
            ),
        ] {
            let error = judge(&elements).unwrap_err();
            assert!(error.contains(why), "{error:?} should say {why:?}");
        }
        let big = "x".repeat(300 << 10);
        assert!(
            judge(&[&big, &root.pem])
                .unwrap_err()
                .contains("an element of its chain has more than")
        );
    }
}
