use rcgen::{KeyPair, PublicKeyData};

use super::*;

fn jwk(text: &str) -> Result<PublicKey, KeyError> {
    PublicKey::from_jwk(&serde_json::from_str(text).unwrap())
}

/// RFC 7638 §3.1, with the thumbprint that it gives.
#[test]
fn the_example_of_rfc_7638() {
    let key = jwk(r#"{
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"
    }"#);
    let key = key.unwrap();
    assert_eq!(key.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    assert_eq!(key.check_signs_jwts(), Ok(()));
    assert_eq!(PublicKey::from_spki(&key.to_spki()), Ok(key));
}

#[test]
fn keys_survive_both_ways() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
    ] {
        let spki = KeyPair::generate_for(algorithm).unwrap().subject_public_key_info();
        let key = PublicKey::from_spki(&spki).unwrap();
        assert_eq!(key.to_spki(), spki);
        assert_eq!(PublicKey::from_jwk(&key.to_jwk()), Ok(key.clone()));
        let signs = !matches!(key, PublicKey::Ed25519(_));
        assert_eq!(key.check_signs_jwts().is_ok(), signs);
        let longer = [spki.as_slice(), &[0]].concat();
        assert_eq!(PublicKey::from_spki(&longer), Err(KeyError::Encoding));
        for end in 0..spki.len() {
            assert!(PublicKey::from_spki(&spki[..end]).is_err());
        }
    }
}

#[test]
fn bad_keys_say_what_is_wrong() {
    let full = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"; // 32 bytes
    let short = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHw"; // 31
    let ec = |x: &str, more: &str| {
        jwk(&format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{full}"{more}}}"#))
    };
    let rsa = |n: &str, e: &str| jwk(&format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}"}}"#));
    let member = |key: Result<PublicKey, KeyError>, name| {
        assert!(matches!(&key, Err(KeyError::Member { member, .. }) if *member == name), "{key:?}");
    };
    assert_eq!(ec(full, "").unwrap().check_signs_jwts(), Err(KeyError::Invalid), "off its curve");
    member(ec(short, ""), "x");
    member(ec(&format!("{full}="), ""), "x");
    member(ec("!", ""), "x");
    assert_eq!(ec(full, r#","d":"AA""#), Err(KeyError::Private));
    assert_eq!(ec(full, r#","key_ops":["sign"]"#), Err(KeyError::NotForVerifying));
    assert_eq!(ec(full, r#","key_ops":"verify""#), Err(KeyError::NotForVerifying));
    assert!(ec(full, r#","key_ops":["sign","verify"]"#).is_ok());
    member(rsa("AAECAw", "AQAB"), "n");
    member(rsa("AQID", "AAEAAQ"), "e");
    member(rsa("", "AQAB"), "n");
    for (kty, crv) in [("oct", ""), ("AKP", ""), ("EC", "secp256k1"), ("OKP", "Ed448")] {
        let unknown = jwk(&format!(r#"{{"kty":"{kty}","crv":"{crv}"}}"#));
        assert!(matches!(unknown, Err(KeyError::UnknownType(_))), "{kty} {crv}");
    }
    assert_eq!(jwk("{}"), Err(KeyError::Missing("kty")));
    assert_eq!(jwk(r#"{"kty":"EC","crv":"P-256"}"#), Err(KeyError::Missing("x")));
}

#[test]
fn rsa_has_2048_to_8192_bits_and_an_odd_exponent() {
    let key = |bits: usize, e: &[u8]| {
        let mut n = vec![0xff; bits.div_ceil(8)];
        n[0] >>= bits.div_ceil(8) * 8 - bits;
        PublicKey::Rsa { n, e: e.to_vec() }.check_signs_jwts()
    };
    for bits in [512, 1024, 2047, 8193, 100_000] {
        assert_eq!(key(bits, &[1, 0, 1]), Err(KeyError::RsaSize(bits)));
    }
    for bits in [2048, 4096, 8192] {
        assert_eq!(key(bits, &[1, 0, 1]), Ok(()), "{bits}");
    }
    for e in [&[1][..], &[2], &[0xff; 20]] {
        assert_eq!(key(2048, e), Err(KeyError::Invalid), "{e:?}");
    }
}
