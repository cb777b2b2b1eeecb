use rcgen::KeyPair;

use super::*;
use crate::identity::{PrivateKey, TrustBundle};

fn signer() -> JwtSigner {
    let key = KeyPair::generate().unwrap();
    JwtSigner::new(&PrivateKey::from_pkcs8(key.serialize_der())).unwrap()
}

fn trusting(signer: &JwtSigner) -> BundleSet {
    let mut bundle = TrustBundle::new("td".parse().unwrap(), Vec::new());
    bundle.jwt_authorities.push(signer.authority());
    [bundle].into_iter().collect()
}

fn id() -> SpiffeId {
    "spiffe://td/ns/shop/sa/web".parse().unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn what_is_signed_is_accepted_for_its_audiences_until_it_expires() {
    let signer = signer().with_issuer("https://oidc.td");
    let bundles = trusting(&signer);
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
    for audiences in [vec!["db".to_owned()], vec!["db".to_owned(), "cache".to_owned()]] {
        let token = signer.sign_jwt_svid(&id(), &audiences, MINUTE, now).unwrap();
        let svid = validate_jwt_svid(&token, "db", &bundles, now).unwrap();
        assert_eq!((&svid.id, &svid.audiences), (&id(), &audiences));
        assert_eq!(svid.claims["aud"].is_string(), audiences.len() == 1);
        assert_eq!(svid.claims["iss"], "https://oidc.td");
        assert!(svid.expires <= now + MINUTE);
        let late = validate_jwt_svid(&token, "db", &bundles, svid.expires);
        assert!(matches!(late, Err(JwtError::Expired { ago_seconds: 0, .. })));
        let other = validate_jwt_svid(&token, "web", &bundles, now);
        assert!(matches!(other, Err(JwtError::Audience { .. })));
    }
}

#[test]
fn what_cannot_be_a_jwt_svid_is_not_signed() {
    let (signer, now) = (signer(), SystemTime::now());
    let sign = |id: &str, audiences: &[&str], lifetime| {
        let audiences: Vec<String> = audiences.iter().map(|a| (*a).to_owned()).collect();
        signer.sign_jwt_svid(&id.parse().unwrap(), &audiences, lifetime, now)
    };
    let long = "a".repeat(MAX_TOKEN);
    assert!(matches!(sign("spiffe://td", &["a"], MINUTE), Err(JwtSignError::NoPath(_))));
    assert_eq!(sign("spiffe://td/a", &[], MINUTE), Err(JwtSignError::NoAudience));
    assert_eq!(sign("spiffe://td/a", &["a", ""], MINUTE), Err(JwtSignError::NoAudience));
    for lifetime in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
        let refused = sign("spiffe://td/a", &["a"], lifetime);
        assert_eq!(refused, Err(JwtSignError::Lifetime(lifetime)));
    }
    assert!(matches!(sign("spiffe://td/a", &[&long], MINUTE), Err(JwtSignError::TooLong(_))));
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let p384 = JwtSigner::new(&PrivateKey::from_pkcs8(p384.serialize_der()));
    assert!(matches!(p384, Err(JwtSignError::Key)));
}

#[test]
fn the_key_id_is_the_thumbprint_or_what_was_said() {
    let signer = signer();
    let authority = signer.authority();
    let key = PublicKey::from_spki(&authority.public_key).unwrap();
    assert_eq!(*authority.key_id, *key.thumbprint());
    assert!(!format!("{signer:?}").contains("key: "));
    assert_eq!(*signer.with_key_id("k1").authority().key_id, *"k1");
}

#[test]
fn times_before_1970_and_far_away_are_numbers_like_others() {
    let claims = |exp: &str, nbf: &str| {
        let text = format!(r#"{{"sub":"spiffe://td/a","aud":"a","exp":{exp},"nbf":{nbf}}}"#);
        read_claims(serde_json::from_str(&text).unwrap())
    };
    let now = SystemTime::UNIX_EPOCH + MINUTE;
    let judge = |exp, nbf| claims(exp, nbf).and_then(|svid| check_time(&svid, now));
    assert_eq!(judge("61", "60"), Ok(()));
    assert_eq!(judge("61", "-5.5"), Ok(()));
    assert!(matches!(judge("-1", "0"), Err(JwtError::Expired { .. })));
    assert!(matches!(judge("61", "60.1"), Err(JwtError::NotYetValid { in_seconds: 1, .. })));
    assert!(matches!(judge("61", "1e300"), Err(JwtError::NotYetValid { .. })));
    assert!(matches!(judge("18446744073709551615", "0"), Err(JwtError::ClaimType("exp", _))));
}
