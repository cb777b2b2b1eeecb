//! A cluster's token issuer: keys, their JWKS, and tokens of any content.

use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::{Value, json};

/// One key of the issuer.
pub(crate) struct Issuer {
    pub(crate) kid: &'static str,
    key: EncodingKey,
    algorithm: Algorithm,
}

impl Issuer {
    pub(crate) fn new(kid: &'static str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let key = EncodingKey::from_ec_der(&key.serialize_der());
        Self { kid, key, algorithm: Algorithm::ES256 }
    }

    /// As Kubernetes signs by default.
    pub(crate) fn rsa(kid: &'static str) -> Self {
        use rcgen::{PKCS_RSA_SHA256, RsaKeySize};
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
        let pem = key.serialize_pem();
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).expect("an RSA key");
        Self { kid, key, algorithm: Algorithm::RS256 }
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a JWK");
        jwk.common.key_id = Some(self.kid.into());
        serde_json::to_value(jwk).expect("JSON")
    }

    /// A token that says `claims`.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.into());
        jsonwebtoken::encode(&header, claims, &self.key).expect("a token")
    }
}

/// The keys of `issuers`, as JSON.
pub(crate) fn jwks(issuers: &[&Issuer]) -> String {
    json!({ "keys": issuers.iter().map(|i| i.jwk()).collect::<Vec<_>>() }).to_string()
}

/// What a token of pod `name` says, good for a minute.
pub(crate) fn claims(namespace: &str, account: &str, name: &str, node: &str) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    let minute = Duration::from_secs(60);
    json!({
        "iss": "https://kubernetes.test",
        "aud": ["istio-ca"],
        "iat": now.as_secs(), "nbf": now.as_secs(), "exp": (now + minute).as_secs(),
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": { "name": account, "uid": "sa" },
            "pod": { "name": name, "uid": format!("uid-{name}") },
            "node": { "name": node, "uid": "n" },
        },
    })
}
