use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData, SignatureAlgorithm,
};

use super::*;
use crate::identity::lint::{Given, Verdict, bundle_document};

fn root(algorithm: &'static SignatureAlgorithm) -> CertificateDer<'static> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().der().clone()
}

fn authority(key_id: &str, algorithm: &'static SignatureAlgorithm) -> JwtAuthority {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let public_key = key.subject_public_key_info().into();
    JwtAuthority { key_id: key_id.into(), public_key }
}

fn td() -> TrustDomain {
    "td".parse().unwrap()
}

fn read(document: &Value) -> Result<TrustBundle, DocumentError> {
    let document = document.to_string();
    let verdict = TrustBundle::from_document(td(), document.as_bytes());
    let given = Given::at(std::time::SystemTime::now());
    let report = bundle_document(document.as_bytes(), &given);
    let own = report.findings.split_last();
    let rules = own.is_some_and(|(_, rules)| rules.iter().any(|f| f.verdict == Verdict::Fail));
    assert_eq!(rules, verdict.is_err(), "{verdict:?}\n{report:#?}");
    verdict
}

fn full() -> TrustBundle {
    let roots =
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    let mut bundle = TrustBundle::new(td(), roots.into_iter().map(root).collect());
    bundle.jwt_authorities = vec![
        authority("a", &rcgen::PKCS_ECDSA_P256_SHA256),
        authority("b", &rcgen::PKCS_ECDSA_P384_SHA384),
        authority("c", &rcgen::PKCS_ECDSA_P521_SHA512),
    ];
    bundle.sequence = Some(u64::MAX);
    bundle.refresh_hint = Some(Duration::from_secs(300));
    bundle
}

#[test]
fn a_bundle_is_read_as_it_was_written() {
    let bundle = full();
    let document = bundle.to_document();
    assert_eq!(read(&document), Ok(bundle));
    for key in document["keys"].as_array().unwrap() {
        match key["use"].as_str() {
            Some("x509-svid") => {
                assert!(key.get("kid").is_none() && key["x5c"].as_array().unwrap().len() == 1);
            }
            Some("jwt-svid") => assert!(key["kid"].is_string() && key.get("x5c").is_none()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_empty_bundle_trusts_nobody_and_one_without_keys_is_an_error() {
    let empty = TrustBundle::new(td(), Vec::new());
    assert_eq!(read(&json!({ "keys": [] })), Ok(empty.clone()));
    assert_eq!(read(&empty.to_document()), Ok(empty));
    for document in [json!({}), json!({ "keys": null }), json!({ "keys": {} })] {
        assert_eq!(read(&document), Err(DocumentError::NoKeys));
    }
}

#[test]
fn what_is_not_known_is_ignored() {
    let mut document = full().to_document();
    let keys = document["keys"].as_array_mut().unwrap();
    let (x509, jwt) = (keys[0].clone(), keys[3].clone());
    let changed = |entry: &Value, member: &str, value: Value| {
        let mut entry = entry.clone();
        entry[member] = value;
        entry
    };
    let unknown = [
        changed(&x509, "use", json!("wit-svid")),
        changed(&x509, "use", json!("X509-SVID")),
        changed(&x509, "use", Value::Null),
        changed(&x509, "kty", json!("AKP")),
        changed(&x509, "x5c", json!([])),
        json!({ "kty": "EC", "use": "x509-svid" }),
        json!({ "kty": "oct", "use": "jwt-svid", "kid": "o", "k": "AAAA" }),
        changed(&jwt, "crv", json!("secp256k1")),
        changed(&jwt, "use", json!("sig")),
    ];
    keys.extend(unknown);
    keys.push(changed(&x509, "x5c", json!([x509["x5c"][0], "ignored"])));
    document["x_private"] = json!({});
    let bundle = read(&document).unwrap();
    assert_eq!((bundle.authorities.len(), bundle.jwt_authorities.len()), (3, 3));
}

#[test]
fn a_bad_entry_spoils_the_document_and_is_named() {
    let document = full().to_document();
    type Expected = fn(&EntryError) -> bool;
    let key = |e: &EntryError| matches!(e, EntryError::Key(_));
    let bad: [(usize, &str, Value, Expected); 13] = [
        (0, "x5c", json!(["!"]), |e| *e == EntryError::Certificate),
        (0, "x5c", json!(["AAAA"]), |e| *e == EntryError::Certificate),
        (0, "x5c", json!("AAAA"), |e| *e == EntryError::Certificate),
        (0, "x5c", json!([1]), |e| *e == EntryError::Certificate),
        (0, "kty", Value::Null, |e| *e == EntryError::NoKeyType),
        (3, "kid", Value::Null, |e| *e == EntryError::NoKeyId),
        (3, "kid", json!(""), |e| *e == EntryError::NoKeyId),
        (3, "kid", json!("b"), |e| matches!(e, EntryError::KeyIdTwice(_))),
        (3, "x", json!("AAAA"), key),
        (3, "y", json!(7), key),
        (3, "crv", json!("P-384"), key),
        (3, "key_ops", json!(["sign"]), key),
        (3, "d", json!("AAAA"), key),
    ];
    for (index, member, value, expected) in bad {
        let mut document = document.clone();
        document["keys"][index][member] = value.clone();
        match read(&document) {
            Err(DocumentError::Entry { why, .. }) => {
                assert!(expected(&why), "{member} {value}: {why:?}");
            }
            other => panic!("{member} {value}: {other:?}"),
        }
    }
    let not_object = read(&json!({ "keys": ["x"] }));
    assert_eq!(not_object, Err(DocumentError::Entry { index: 0, why: EntryError::NotObject }));
}

#[test]
fn sizes_and_numbers_are_bounded() {
    let key = json!({ "kty": "x" });
    assert!(read(&json!({ "keys": vec![key.clone(); MAX_KEYS] })).is_ok());
    let more = read(&json!({ "keys": vec![key; MAX_KEYS + 1] }));
    assert_eq!(more, Err(DocumentError::TooManyKeys(MAX_KEYS + 1)));
    let blank = vec![b' '; MAX_DOCUMENT + 1];
    let large = TrustBundle::from_document(td(), &blank);
    assert_eq!(large, Err(DocumentError::TooLarge(MAX_DOCUMENT + 1)));
    for value in [json!(-1), json!(1.5), json!("1"), Value::Null] {
        for name in ["spiffe_sequence", "spiffe_refresh_hint"] {
            let mut document = json!({ "keys": [] });
            document[name] = value.clone();
            assert_eq!(read(&document), Err(DocumentError::NotInteger(name)), "{value}");
        }
    }
    let over = br#"{"keys":[],"spiffe_sequence":18446744073709551616}"#;
    assert!(TrustBundle::from_document(td(), over).is_err());
    let twice = br#"{"keys":[],"keys":[]}"#;
    let twice = TrustBundle::from_document(td(), twice);
    assert_eq!(twice, Err(DocumentError::DuplicateMember("keys".into())));
    assert!(matches!(TrustBundle::from_document(td(), b"[]"), Err(DocumentError::Json(_))));
}

#[test]
fn jwks_have_jwt_keys_only_and_may_say_less_of_their_use() {
    let bundle = full();
    let mut jwks = bundle.to_jwks();
    assert_eq!(jwks["keys"][0]["alg"], "ES256");
    assert_eq!(jwks["keys"][2]["alg"], "ES512");
    assert_eq!(jwks["keys"][0]["use"], "sig");
    let read = |jwks: &Value| JwtAuthority::from_jwks(jwks.to_string().as_bytes());
    assert_eq!(read(&jwks), Ok(bundle.jwt_authorities.clone()));
    assert_eq!(read(&bundle.to_document()), Ok(bundle.jwt_authorities.clone()));
    for (at, said) in [(0, "jwt-svid"), (1, "x509-svid"), (2, "enc")] {
        jwks["keys"][at]["use"] = said.into();
    }
    assert_eq!(read(&jwks).unwrap(), bundle.jwt_authorities[..1]);
    jwks["keys"][1].as_object_mut().unwrap().remove("use");
    assert_eq!(read(&jwks).unwrap(), bundle.jwt_authorities[..2]);
}
