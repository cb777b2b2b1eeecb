//! A token's key as rustls wants it. Digests are ours and the mechanisms raw, which every token
//! has; TLS' own schemes (RFC 8446 §4.2.3) are made of them.

mod module;
mod token;

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use cryptoki::{
    mechanism::{
        Mechanism, MechanismType,
        eddsa::{EddsaParams, EddsaSignatureScheme},
        rsa::{PkcsMgfType, PkcsPssParams},
    },
    object::{KeyType, ObjectHandle},
};
use pki_types::CertificateDer;
use rustls::{
    SignatureAlgorithm, SignatureScheme as S,
    sign::{Signer, SigningKey},
};
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer, X509Certificate};

use self::token::{SigningFailure, Token};
use super::TokenConfig;
use crate::tls::classic_provider;

/// A private key on a token, found by the certificate that it belongs to.
pub(super) struct TokenKey(Arc<Inner>);

struct Inner {
    leaf: CertificateDer<'static>,
    kind: KeyKind,
    /// The best first.
    schemes: Vec<S>,
    found: ArcSwap<FoundKey>,
}

struct FoundKey {
    token: Token,
    key: ObjectHandle,
}

#[derive(Clone, Copy)]
enum KeyKind {
    Rsa,
    Ecdsa(S),
    Ed25519,
}

impl KeyKind {
    /// That of the certificate's public key.
    fn of(leaf: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|e| format!("is not an X.509 certificate: {e}"))?;
        let algorithm = &parsed.public_key().algorithm;
        let curve = algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
        let curve = curve.map(|oid| oid.to_id_string());
        match (algorithm.algorithm.to_id_string().as_str(), curve.as_deref()) {
            ("1.2.840.113549.1.1.1", _) => Ok(Self::Rsa),
            ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => {
                Ok(Self::Ecdsa(S::ECDSA_NISTP256_SHA256))
            }
            ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => {
                Ok(Self::Ecdsa(S::ECDSA_NISTP384_SHA384))
            }
            ("1.2.840.10045.2.1", Some("1.3.132.0.35")) => {
                Ok(Self::Ecdsa(S::ECDSA_NISTP521_SHA512))
            }
            ("1.3.101.112", _) => Ok(Self::Ed25519),
            (other, _) => Err(format!(
                "has a public key of the algorithm {other}; adit supports RSA, ECDSA and Ed25519"
            )),
        }
    }

    fn key_type(self) -> KeyType {
        match self {
            Self::Rsa => KeyType::RSA,
            Self::Ecdsa(_) => KeyType::EC,
            Self::Ed25519 => KeyType::EC_EDWARDS,
        }
    }

    fn schemes(self, token: &Token) -> Vec<S> {
        match self {
            Self::Rsa => {
                let mut all = Vec::new();
                if token.can(MechanismType::RSA_PKCS_PSS) {
                    all.extend([S::RSA_PSS_SHA512, S::RSA_PSS_SHA384, S::RSA_PSS_SHA256]);
                } else {
                    tracing::warn!(
                        target: "svid", token = token.label(),
                        "this token does not support RSA-PSS, so TLS 1.3 is not possible"
                    );
                }
                all.extend([S::RSA_PKCS1_SHA512, S::RSA_PKCS1_SHA384, S::RSA_PKCS1_SHA256]);
                all
            }
            Self::Ecdsa(scheme) => vec![scheme],
            Self::Ed25519 => vec![S::ED25519],
        }
    }
}

impl TokenKey {
    pub(super) fn find(config: TokenConfig, leaf: &CertificateDer<'_>) -> Result<Self, String> {
        let kind = KeyKind::of(leaf).map_err(|why| format!("the certificate {why}"))?;
        let token = Token::open(config)?;
        let schemes = kind.schemes(&token);
        let found = FoundKey::on(token, kind, &schemes, leaf)?;
        let leaf = leaf.clone().into_owned();
        Ok(Self(Arc::new(Inner { leaf, kind, schemes, found: ArcSwap::from_pointee(found) })))
    }
}

impl FoundKey {
    /// The key whose signature the certificate verifies: labels and IDs may say anything.
    fn on(
        token: Token,
        kind: KeyKind,
        schemes: &[S],
        leaf: &CertificateDer<'_>,
    ) -> Result<Self, String> {
        let scheme = *schemes.first().ok_or("no scheme to sign with")?;
        let keys = token.private_keys(kind.key_type())?;
        let mut last = None;
        for key in &keys {
            match sign(&token, *key, scheme, PROBE) {
                Ok(signature) if verifies(leaf, scheme, &signature) => {
                    return Ok(Self { key: *key, token });
                }
                Ok(_) => {}
                Err(SigningFailure { why, .. }) => last = Some(why),
            }
        }
        let label = token.label();
        Err(match (keys.len(), last) {
            (0, _) => format!("token {label:?} has no private key of the certificate's type"),
            (n, None) => format!(
                "none of the {n} private keys on token {label:?} belongs to the certificate"
            ),
            (n, Some(why)) => format!(
                "none of the {n} private keys on token {label:?} belongs to the certificate and \
                 can sign: {why}"
            ),
        })
    }
}

/// What is signed to see whether a key is the right one; it has the form of nothing in TLS.
const PROBE: &[u8] = b"adit: is this the key of the certificate?";

fn verifies(leaf: &CertificateDer<'_>, scheme: S, signature: &[u8]) -> bool {
    let Ok(leaf) = EndEntityCert::try_from(leaf) else { return false };
    let known = classic_provider().signature_verification_algorithms;
    let fitting = known.mapping.iter().find(|(s, _)| *s == scheme);
    let mut fitting = fitting.into_iter().flat_map(|(_, all)| all.iter());
    fitting.any(|algorithm| leaf.verify_signature(*algorithm, PROBE, signature).is_ok())
}

impl Inner {
    fn sign(&self, scheme: S, message: &[u8]) -> Result<Vec<u8>, String> {
        let found = self.found.load_full();
        let refusal = match sign(&found.token, found.key, scheme, message) {
            Ok(signature) => return Ok(signature),
            Err(refusal) => refusal,
        };
        let label = found.token.label().to_owned();
        if !refusal.lost {
            return Err(format!("token {label:?}: {}", refusal.why));
        }
        let anew = Token::open(found.token.config().clone())
            .and_then(|token| FoundKey::on(token, self.kind, &self.schemes, &self.leaf));
        match anew {
            Ok(anew) => {
                tracing::warn!(
                    target: "svid", token = label, why = refusal.why,
                    "the PKCS#11 token was lost and found again"
                );
                let anew = Arc::new(anew);
                self.found.store(Arc::clone(&anew));
                sign(&anew.token, anew.key, scheme, message)
                    .map_err(|refusal| format!("token {label:?}: {}", refusal.why))
            }
            Err(why) => Err(format!("token {label:?}: {}; not found again: {why}", refusal.why)),
        }
    }
}

fn sign(
    token: &Token,
    key: ObjectHandle,
    scheme: S,
    message: &[u8],
) -> Result<Vec<u8>, SigningFailure> {
    let hashed = |with| digest::digest(with, message).as_ref().to_vec();
    let pss = |hash_alg, mgf, s_len: std::ffi::c_ulong| {
        Mechanism::RsaPkcsPss(PkcsPssParams { hash_alg, mgf, s_len: s_len.into() })
    };
    use MechanismType as M;
    let (mechanism, data) = match scheme {
        S::RSA_PSS_SHA256 => (pss(M::SHA256, PkcsMgfType::MGF1_SHA256, 32), hashed(&SHA256)),
        S::RSA_PSS_SHA384 => (pss(M::SHA384, PkcsMgfType::MGF1_SHA384, 48), hashed(&SHA384)),
        S::RSA_PSS_SHA512 => (pss(M::SHA512, PkcsMgfType::MGF1_SHA512, 64), hashed(&SHA512)),
        S::RSA_PKCS1_SHA256 => (Mechanism::RsaPkcs, [SHA256_INFO, &hashed(&SHA256)].concat()),
        S::RSA_PKCS1_SHA384 => (Mechanism::RsaPkcs, [SHA384_INFO, &hashed(&SHA384)].concat()),
        S::RSA_PKCS1_SHA512 => (Mechanism::RsaPkcs, [SHA512_INFO, &hashed(&SHA512)].concat()),
        S::ECDSA_NISTP256_SHA256 => (Mechanism::Ecdsa, hashed(&SHA256)),
        S::ECDSA_NISTP384_SHA384 => (Mechanism::Ecdsa, hashed(&SHA384)),
        S::ECDSA_NISTP521_SHA512 => (Mechanism::Ecdsa, hashed(&SHA512)),
        _ => {
            let params = EddsaParams::new(EddsaSignatureScheme::Ed25519);
            (Mechanism::Eddsa(params), message.to_vec())
        }
    };
    let signature = token.sign(key, &mechanism, &data)?;
    Ok(match mechanism {
        Mechanism::Ecdsa => ecdsa_der(&signature),
        _ => signature,
    })
}

/// What DER's DigestInfo has before the digest (RFC 8017 §9.2, note 1).
const SHA256_INFO: &[u8] = &[
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];
const SHA384_INFO: &[u8] = &[
    0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05,
    0x00, 0x04, 0x30,
];
const SHA512_INFO: &[u8] = &[
    0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05,
    0x00, 0x04, 0x40,
];

/// A token's `r || s` (PKCS #11 §6.3.1) as TLS wants it: `SEQUENCE { r INTEGER, s INTEGER }`
/// (RFC 3279 §2.2.3).
fn ecdsa_der(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(signature.len() / 2);
    let body = [unsigned(r), unsigned(s)].concat();
    [tagged(0x30, body.len()), body].concat()
}

fn unsigned(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|b| *b != 0).unwrap_or(number.len());
    let mut digits = number[start..].to_vec();
    if digits.first().is_none_or(|first| *first >= 0x80) {
        digits.insert(0, 0);
    }
    [tagged(0x02, digits.len()), digits].concat()
}

/// Tag and length; two numbers of P-521 are less than 256 bytes.
fn tagged(tag: u8, len: usize) -> Vec<u8> {
    let len = len.to_be_bytes()[size_of::<usize>() - 1];
    if len < 0x80 { vec![tag, len] } else { vec![tag, 0x81, len] }
}

impl SigningKey for TokenKey {
    fn choose_scheme(&self, offered: &[S]) -> Option<Box<dyn Signer>> {
        let scheme = *self.0.schemes.iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(TokenSigner { key: Arc::clone(&self.0), scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.kind {
            KeyKind::Rsa => SignatureAlgorithm::RSA,
            KeyKind::Ecdsa(_) => SignatureAlgorithm::ECDSA,
            KeyKind::Ed25519 => SignatureAlgorithm::ED25519,
        }
    }
}

/// One signature to be made.
struct TokenSigner {
    key: Arc<Inner>,
    scheme: S,
}

impl Signer for TokenSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.key.sign(self.scheme, message).map_err(|why| {
            tracing::error!(target: "svid", error = why, "the PKCS#11 token did not sign");
            rustls::Error::General(why)
        })
    }

    fn scheme(&self) -> S {
        self.scheme
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKey({:?})", self.0.found.load().token.label())
    }
}

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenSigner({:?})", self.scheme)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_signature_become_der() {
        for (raw, der) in [
            (&[1u8, 2][..], &[0x30, 6, 2, 1, 1, 2, 1, 2][..]),
            (&[0, 1, 0x80, 0], &[0x30, 8, 2, 1, 1, 2, 3, 0, 0x80, 0]),
            (&[0, 0, 0, 0], &[0x30, 6, 2, 1, 0, 2, 1, 0]),
        ] {
            assert_eq!(ecdsa_der(raw), der, "{raw:?}");
        }
        let long = ecdsa_der(&[0xFF; 132]);
        assert_eq!(long[..6], [0x30, 0x81, 138, 2, 67, 0]);
    }
}
