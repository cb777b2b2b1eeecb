//! JWT-SVID: every rule with a token made by hand that breaks it, all nine algorithms.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use adit::identity::{
    BundleSet, JwtAuthority, JwtError, JwtSigner, JwtSvid, MAX_TOKEN, PrivateKey, PublicKey,
    TrustBundle, validate_jwt_svid,
};
use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self as sig, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, RsaKeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;

use crate::{
    jwt_corpus::{AUDIENCE, CLAIMS, HEADER, KEY_ID, NOW, bad_claims, bad_headers, claims_of},
    lint,
    spiffe_ids::{every_bad_byte, ids},
};

enum Key {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Key {
    fn ec(algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        Self::Ec(EcdsaKeyPair::generate(algorithm).unwrap())
    }

    fn authority(&self, key_id: &str) -> JwtAuthority {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Ec(key) => key.public_key().as_der().unwrap(),
            Self::Rsa(key) => key.public_key().as_der().unwrap(),
        };
        JwtAuthority { key_id: key_id.into(), public_key: der.as_ref().into() }
    }

    fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let (key, rng) = match self {
            Self::Ec(key) => {
                return key.sign(&SystemRandom::new(), message).unwrap().as_ref().into();
            }
            Self::Rsa(key) => (key, SystemRandom::new()),
        };
        let encoding = match alg {
            "RS384" => &sig::RSA_PKCS1_SHA384,
            "RS512" => &sig::RSA_PKCS1_SHA512,
            "PS256" => &sig::RSA_PSS_SHA256,
            "PS384" => &sig::RSA_PSS_SHA384,
            "PS512" => &sig::RSA_PSS_SHA512,
            _ => &sig::RSA_PKCS1_SHA256,
        };
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(encoding, &rng, message, &mut signature).unwrap();
        signature
    }

    fn token(&self, alg: &str, header: &str, claims: &str) -> String {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
        format!("{signed}.{}", encode(&self.sign(alg, signed.as_bytes())))
    }
}

static P256: LazyLock<Key> = LazyLock::new(|| Key::ec(&sig::ECDSA_P256_SHA256_FIXED_SIGNING));
static OTHER: LazyLock<Key> = LazyLock::new(|| Key::ec(&sig::ECDSA_P256_SHA256_FIXED_SIGNING));
static P384: LazyLock<Key> = LazyLock::new(|| Key::ec(&sig::ECDSA_P384_SHA384_FIXED_SIGNING));
static P521: LazyLock<Key> = LazyLock::new(|| Key::ec(&sig::ECDSA_P521_SHA512_FIXED_SIGNING));
static RSA: LazyLock<Key> =
    LazyLock::new(|| Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));

/// `td` trusts five keys, one of them too weak; `other` one that `td` does not know.
static BUNDLES: LazyLock<BundleSet> = LazyLock::new(|| {
    let bundle = |td: &str, authorities| {
        let mut bundle = TrustBundle::new(td.parse().unwrap(), Vec::new());
        bundle.jwt_authorities = authorities;
        bundle
    };
    let weak = PublicKey::Rsa { n: vec![0xff; 128], e: vec![1, 0, 1] }.to_spki();
    let own = vec![
        P256.authority(KEY_ID),
        P384.authority("p384"),
        P521.authority("p521"),
        RSA.authority("rsa"),
        JwtAuthority { key_id: "weak".into(), public_key: weak.into() },
    ];
    let other = vec![OTHER.authority("theirs"), OTHER.authority("p256")];
    [bundle("td", own), bundle("other", other)].into_iter().collect()
});

fn judge(token: &str) -> Result<JwtSvid, JwtError> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let verdict = validate_jwt_svid(token, AUDIENCE, &BUNDLES, now);
    lint::agrees_on_token(token, AUDIENCE, &BUNDLES, now, &verdict);
    verdict
}

fn with(header: &str, claims: &str) -> Result<JwtSvid, JwtError> {
    judge(&P256.token("ES256", header, claims))
}

#[test]
fn all_nine_algorithms_are_accepted_with_the_keys_they_go_with() {
    let keys: [(&str, &Key); 4] =
        [("p256", &P256), ("p384", &P384), ("p521", &P521), ("rsa", &RSA)];
    let algs = ["ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    for (at, alg) in algs.into_iter().enumerate() {
        for (kid, key) in keys {
            let header = format!(r#"{{"alg":"{alg}","kid":"{kid}"}}"#);
            let verdict = judge(&key.token(alg, &header, CLAIMS));
            if keys[at.min(3)].0 == kid {
                assert_eq!(verdict.unwrap().id.as_str(), "spiffe://td/a", "{alg}");
            } else {
                assert!(matches!(verdict, Err(JwtError::KeyMismatch { .. })), "{alg} {kid}");
            }
        }
    }
    let header = r#"{"alg":"PS256","kid":"rsa"}"#;
    assert_eq!(judge(&RSA.token("RS256", header, CLAIMS)).unwrap_err(), JwtError::Signature);
}

#[test]
fn what_the_spec_leaves_open_is_accepted() {
    for typ in ["JWT", "JOSE"] {
        assert!(with(&format!(r#"{{"alg":"ES256","kid":"p256","typ":"{typ}"}}"#), CLAIMS).is_ok());
    }
    for more in [
        r#""aud":["db"]"#,
        r#""aud":["web","db"]"#,
        r#""aud":"db","nbf":1700000000,"iat":1700000000.5,"jti":"x","iss":"y""#,
        r#""aud":"db","private":{"a":[1]}"#,
    ] {
        let claims = format!(r#"{{"sub":"spiffe://td/a","exp":1700000001,{more}}}"#);
        assert!(with(HEADER, &claims).is_ok(), "{more}");
    }
}

#[test]
fn a_header_that_breaks_a_rule_is_refused_with_that_rule() {
    for (header, expected) in bad_headers() {
        let error = with(header, CLAIMS).expect_err(header);
        assert!(expected(&error), "{header}: {error:?}");
    }
    let weak = RSA.token("RS256", r#"{"alg":"RS256","kid":"weak"}"#, CLAIMS);
    assert!(matches!(judge(&weak), Err(JwtError::BadKey { .. })));
}

#[test]
fn claims_that_break_a_rule_are_refused_with_that_rule() {
    for (claims, expected) in bad_claims() {
        let error = with(HEADER, &claims).expect_err(&claims);
        assert!(expected(&error), "{claims}: {error:?}");
    }
}

#[test]
fn a_subject_is_any_spiffe_id_with_a_path_and_nothing_else() {
    let bytes = every_bad_byte().into_iter().map(|id| (id, false));
    for (id, valid) in ids().into_iter().chain(bytes) {
        let Ok(subject) = std::str::from_utf8(&id) else { continue }; // no JSON either
        let error = with(HEADER, &claims_of(subject)).map(|svid| svid.id.to_string());
        match (error, valid) {
            (Ok(id), true) => assert_eq!(id, subject),
            (Err(JwtError::NoPath(_) | JwtError::UnknownTrustDomain(_)), true) => {}
            (Err(JwtError::NotSpiffeId(_)), false) => {}
            (verdict, _) => panic!("{subject:?}: {verdict:?}"),
        }
    }
}

#[test]
fn keys_of_another_trust_domain_prove_nothing() {
    // Known in `other`, not in `td`.
    let theirs = OTHER.token("ES256", r#"{"alg":"ES256","kid":"theirs"}"#, CLAIMS);
    assert!(matches!(judge(&theirs), Err(JwtError::UnknownKey { .. })));
    // The same kid in both, signed with the other's key, and the other way round.
    let signed_there = OTHER.token("ES256", HEADER, CLAIMS);
    assert_eq!(judge(&signed_there).unwrap_err(), JwtError::Signature);
    let claims = CLAIMS.replace("//td/", "//other/");
    assert_eq!(with(HEADER, &claims).unwrap_err(), JwtError::Signature);
    assert!(judge(&OTHER.token("ES256", HEADER, &claims)).is_ok());
}

#[test]
fn only_the_compact_serialization_is_read() {
    let token = P256.token("ES256", HEADER, CLAIMS);
    let parts: Vec<&str> = token.split('.').collect();
    let json = format!(
        r#"{{"payload":"{}","protected":"{}","signature":"{}"}}"#,
        parts[1], parts[0], parts[2]
    );
    assert_eq!(judge(&json).unwrap_err(), JwtError::JsonSerialization);
    let detached = format!("{}..{}", parts[0], parts[2]);
    assert!(matches!(judge(&detached), Err(JwtError::Json { .. })));
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    assert_eq!(judge(&unsigned).unwrap_err(), JwtError::Signature);
    for (bad, count) in [("", 1), ("a.b", 2), ("a.b.c.d", 4), ("a.b.c.d.e", 5)] {
        assert_eq!(judge(bad).unwrap_err(), JwtError::NotCompact { parts: count }, "{bad}");
    }
    for bad in [format!("{token}="), format!("{token} "), format!(" {token}"), format!("{token}\n")]
    {
        assert!(matches!(judge(&bad), Err(JwtError::Encoding(_))), "{bad:?}");
    }
    let long = "a".repeat(MAX_TOKEN + 1);
    assert_eq!(judge(&long).unwrap_err(), JwtError::TooLong(MAX_TOKEN + 1));
    // ECDSA in DER, as X.509 has it, is not the form of RFC 7518 §3.4.
    let Key::Ec(key) = &*P256 else { panic!("EC") };
    let pkcs8 = key.to_pkcs8v1().unwrap();
    let der_signer =
        EcdsaKeyPair::from_pkcs8(&sig::ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap();
    let token = Key::Ec(der_signer).token("ES256", HEADER, CLAIMS);
    assert_eq!(judge(&token).unwrap_err(), JwtError::Signature);
}

#[test]
fn an_empty_bundle_trusts_no_token() {
    let empty = [TrustBundle::new("td".parse().unwrap(), Vec::new())].into_iter().collect();
    let token = P256.token("ES256", HEADER, CLAIMS);
    let verdict = validate_jwt_svid(&token, "db", &empty, SystemTime::UNIX_EPOCH);
    assert!(matches!(verdict, Err(JwtError::UnknownKey { .. })));
}

/// Another library reads our tokens with the keys as we publish them.
#[test]
fn jsonwebtoken_accepts_what_is_signed_with_the_jwks_that_is_published() {
    let key = rcgen::KeyPair::generate().unwrap();
    let signer = JwtSigner::new(&PrivateKey::from_pkcs8(key.serialize_der())).unwrap();
    let mut bundle = TrustBundle::new("td".parse().unwrap(), Vec::new());
    bundle.jwt_authorities.push(signer.authority());
    let id = "spiffe://td/a".parse().unwrap();
    let lifetime = Duration::from_secs(300);
    let token = signer.sign_jwt_svid(&id, &["db".to_owned()], lifetime, SystemTime::now()).unwrap();
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(bundle.to_jwks()).unwrap();
    let header = jsonwebtoken::decode_header(&token).unwrap();
    let jwk = set.find(&header.kid.unwrap()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(header.alg);
    rules.set_audience(&["db"]);
    let key = jsonwebtoken::DecodingKey::from_jwk(jwk).unwrap();
    let read = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &rules).unwrap();
    assert_eq!(read.claims["sub"], "spiffe://td/a");
}

proptest! {
    #[test]
    fn any_text_is_safe(text in ".{0,200}", parts in "[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){2}") {
        prop_assert!(judge(&text).is_err() && judge(&parts).is_err());
    }

    #[test]
    fn any_claims_are_safe(claims in "\\{(\"(sub|aud|exp|nbf)\":(\"spiffe://td/a\"|-?[0-9]{1,20}|null|\\[\\]),?){0,5}\\}") {
        let _ = with(HEADER, &claims);
    }

    #[test]
    fn a_changed_byte_is_refused(at in 0_usize..1000, to in "[A-Za-z0-9_.-]") {
        let mut token = P256.token("ES256", HEADER, CLAIMS).into_bytes();
        let at = at % token.len();
        let was = std::mem::replace(&mut token[at], to.as_bytes()[0]);
        let verdict = judge(std::str::from_utf8(&token).unwrap());
        prop_assert_eq!(verdict.is_ok(), was == to.as_bytes()[0]);
    }
}
