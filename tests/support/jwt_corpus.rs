//! JWT-SVID §2–§4: headers and claims that break one rule each, and what must be said of them, for
//! the verifier by itself and for a Workload API that is served. They are written for
//! [`NOW`], the key [`KEY_ID`] and the audience [`AUDIENCE`].

use adit::identity::JwtError;

/// The time that the claims are about.
pub(crate) const NOW: u64 = 1_700_000_000;
/// The `kid` of the key that signs them.
pub(crate) const KEY_ID: &str = "p256";
/// For whom the sound ones are.
pub(crate) const AUDIENCE: &str = "db";
pub(crate) const HEADER: &str = r#"{"alg":"ES256","kid":"p256"}"#;
pub(crate) const CLAIMS: &str = r#"{"sub":"spiffe://td/a","aud":"db","exp":1700000060}"#;

type Expected = fn(&JwtError) -> bool;

/// Headers, each with what refuses it.
pub(crate) fn bad_headers() -> Vec<(&'static str, Expected)> {
    let alg: Expected = |e| matches!(e, JwtError::Algorithm(_));
    let typ: Expected = |e| matches!(e, JwtError::Type(_));
    let member: Expected = |e| matches!(e, JwtError::HeaderMember(_));
    let twice: Expected = |e| matches!(e, JwtError::DuplicateMember { .. });
    let no_key_id: Expected = |e| *e == JwtError::NoKeyId;
    let json: Expected = |e| matches!(e, JwtError::Json { .. });
    vec![
        (r#"{"alg":"none","kid":"p256"}"#, alg),
        (r#"{"alg":"None","kid":"p256"}"#, alg),
        (r#"{"alg":"HS256","kid":"p256"}"#, alg),
        (r#"{"alg":"EdDSA","kid":"p256"}"#, alg),
        (r#"{"alg":"ES256K","kid":"p256"}"#, alg),
        (r#"{"alg":"es256","kid":"p256"}"#, alg),
        (r#"{"alg":["ES256"],"kid":"p256"}"#, alg),
        (r#"{"kid":"p256"}"#, alg),
        (r#"{"alg":"ES256","kid":"p256","typ":"wit+jwt"}"#, typ),
        (r#"{"alg":"ES256","kid":"p256","typ":"jwt"}"#, typ),
        (r#"{"alg":"ES256","kid":"p256","typ":""}"#, typ),
        (r#"{"alg":"ES256","kid":"p256","typ":null}"#, typ),
        (r#"{"alg":"ES256","kid":"p256","jku":"https://evil"}"#, member),
        (r#"{"alg":"ES256","kid":"p256","jwk":{}}"#, member),
        (r#"{"alg":"ES256","kid":"p256","x5u":"https://evil"}"#, member),
        (r#"{"alg":"ES256","kid":"p256","x5c":[]}"#, member),
        (r#"{"alg":"ES256","kid":"p256","x5t":""}"#, member),
        (r#"{"alg":"ES256","kid":"p256","crit":["exp"]}"#, member),
        (r#"{"alg":"ES256","kid":"p256","cty":"JWT"}"#, member),
        (r#"{"alg":"ES256","kid":"p256","b64":false}"#, member),
        (r#"{"alg":"ES256","kid":"p256","zip":"DEF"}"#, member),
        (r#"{"alg":"ES256","kid":"p256","private":1}"#, member),
        (r#"{"alg":"ES256","alg":"ES256","kid":"p256"}"#, twice),
        (r#"{"alg":"ES256","kid":"p256","\u006bid":"theirs"}"#, twice),
        (r#"{"alg":"ES256"}"#, no_key_id),
        (r#"{"alg":"ES256","kid":""}"#, no_key_id),
        (r#"{"alg":"ES256","kid":7}"#, no_key_id),
        (r#"["ES256"]"#, json),
        ("", json),
        ("{", json),
        (r#"{"alg":"ES256","kid":"weak"}"#, |e| {
            matches!(e, JwtError::KeyMismatch { .. } | JwtError::BadKey { .. })
        }),
    ]
}

/// Claims, each with what refuses them.
pub(crate) fn bad_claims() -> Vec<(String, Expected)> {
    let missing: Expected = |e| matches!(e, JwtError::NoClaim(_));
    let kind: Expected = |e| matches!(e, JwtError::ClaimType(..));
    let empty: Expected = |e| *e == JwtError::EmptyAudience;
    let not_id: Expected = |e| matches!(e, JwtError::NotSpiffeId(_));
    let expired: Expected = |e| matches!(e, JwtError::Expired { .. });
    let audience: Expected = |e| matches!(e, JwtError::Audience { .. });
    let twice: Expected = |e| matches!(e, JwtError::DuplicateMember { .. });
    let cases: Vec<(&str, Expected)> = vec![
        (r#""aud":"db","exp":1700000060"#, missing),
        (r#""sub":"spiffe://td/a","exp":1700000060"#, missing),
        (r#""sub":"spiffe://td/a","aud":"db""#, missing),
        (r#""sub":7,"aud":"db","exp":1700000060"#, kind),
        (r#""sub":"","aud":"db","exp":1700000060"#, not_id),
        (r#""sub":"web","aud":"db","exp":1700000060"#, not_id),
        (r#""sub":"https://td/a","aud":"db","exp":1700000060"#, not_id),
        (r#""sub":"spiffe://td/a/","aud":"db","exp":1700000060"#, not_id),
        (r#""sub":"spiffe://td","aud":"db","exp":1700000060"#, |e| {
            matches!(e, JwtError::NoPath(_))
        }),
        (r#""sub":"spiffe://td/a","aud":[],"exp":1700000060"#, empty),
        (r#""sub":"spiffe://td/a","aud":"","exp":1700000060"#, empty),
        (r#""sub":"spiffe://td/a","aud":["db",""],"exp":1700000060"#, empty),
        (r#""sub":"spiffe://td/a","aud":["db",7],"exp":1700000060"#, kind),
        (r#""sub":"spiffe://td/a","aud":null,"exp":1700000060"#, kind),
        (r#""sub":"spiffe://td/a","aud":{"db":1},"exp":1700000060"#, kind),
        (r#""sub":"spiffe://td/a","aud":"web","exp":1700000060"#, audience),
        (r#""sub":"spiffe://td/a","aud":["DB","db "],"exp":1700000060"#, audience),
        (r#""sub":"spiffe://td/a","aud":"db","exp":1699999999"#, expired),
        (r#""sub":"spiffe://td/a","aud":"db","exp":1700000000"#, expired),
        (r#""sub":"spiffe://td/a","aud":"db","exp":-1"#, expired),
        (r#""sub":"spiffe://td/a","aud":"db","exp":"1700000060""#, kind),
        (r#""sub":"spiffe://td/a","aud":"db","exp":1700000060.5"#, kind),
        (r#""sub":"spiffe://td/a","aud":"db","exp":null"#, kind),
        (r#""sub":"spiffe://td/a","aud":"db","exp":1700000060,"nbf":"0""#, kind),
        (r#""sub":"spiffe://td/a","aud":"db","exp":1700000060,"iat":"0""#, kind),
        (r#""sub":"spiffe://td/a","aud":"db","exp":1700000060,"nbf":1700000001"#, |e| {
            matches!(e, JwtError::NotYetValid { in_seconds: 1, .. })
        }),
        (r#""sub":"spiffe://td/a","aud":"db","exp":1700000060,"exp":1"#, twice),
        (r#""sub":"spiffe://td/a","aud":"db","exp":1700000060,"x":{"y":1,"y":2}"#, twice),
        (r#""sub":"spiffe://third/a","aud":"db","exp":1700000060"#, |e| {
            matches!(e, JwtError::UnknownTrustDomain(_))
        }),
    ];
    let all = |(claims, expected): (&str, Expected)| (format!("{{{claims}}}"), expected);
    cases.into_iter().map(all).collect()
}

/// Claims of a subject.
pub(crate) fn claims_of(subject: &str) -> String {
    serde_json::json!({ "sub": subject, "aud": AUDIENCE, "exp": NOW + 60 }).to_string()
}
