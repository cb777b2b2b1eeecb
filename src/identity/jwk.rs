//! Public keys as SubjectPublicKeyInfo (RFC 5280 §4.1) and as JWK (RFC 7517, 7518 §6, 8037).
//! Which of them may sign JWT-SVIDs says [`PublicKey::check_signs_jwts`].
//! Not here: documents of many keys ([`super::bundle_document`]).

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ParsedPublicKey,
        RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
    },
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use x509_parser::{
    prelude::FromDer, public_key::PublicKey as ParsedKey, x509::SubjectPublicKeyInfo,
};

/// A public key of a kind that SPIFFE bundles carry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PublicKey {
    /// A point of a NIST curve: both coordinates in full width.
    Ec {
        /// Which curve.
        curve: Curve,
        /// `x` and `y`, one after the other.
        point: Vec<u8>,
    },
    /// RSA; both numbers big-endian without leading zeros.
    Rsa {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
    /// Ed25519 (RFC 8037), which signs certificates but no JWT-SVIDs.
    Ed25519([u8; 32]),
}

/// The curves of RFC 7518 §6.2.1.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Curve {
    /// For ES256.
    P256,
    /// For ES384.
    P384,
    /// For ES512.
    P521,
}

/// Why a key cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// A type or curve that is not known here; a bundle's reader ignores such keys.
    #[error("adit does not support its type {0:?} (RFC 7517 §4.1)")]
    UnknownType(String),
    /// A member that must be there is not.
    #[error("it has no {0} (RFC 7518 §6)")]
    Missing(&'static str),
    /// A member is not what it must be.
    #[error("its {member} is {why}")]
    Member {
        /// Which.
        member: &'static str,
        /// What it is.
        why: &'static str,
    },
    /// `key_ops` is there and does not say `verify`.
    #[error("its key_ops do not include verify (RFC 7517 §4.3)")]
    NotForVerifying,
    /// The private half was published too.
    #[error("it contains a private key: everyone who read it can sign, so replace it")]
    Private,
    /// An RSA modulus below 2048 or above 8192 bits.
    #[error("it is RSA of {0} bits, JWT-SVIDs need 2048 to 8192 (RFC 7518 §3.3)")]
    RsaSize(usize),
    /// Not a SubjectPublicKeyInfo, or of an encoding that is not used here.
    #[error("it is not a SubjectPublicKeyInfo of a known kind")]
    Encoding,
    /// Not on its curve, or an exponent that no RSA key has.
    #[error("it is not a valid public key")]
    Invalid,
    /// Ed25519 signs no JWT-SVIDs.
    #[error("it is Ed25519, which cannot sign JWT-SVIDs (JWT-SVID §2.1)")]
    NotForJwts,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// Its name in a JWK's `crv`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// The only `alg` that goes with it (RFC 7518 §3.4).
    #[must_use]
    pub fn algorithm(self) -> &'static str {
        match self {
            Self::P256 => "ES256",
            Self::P384 => "ES384",
            Self::P521 => "ES512",
        }
    }

    /// Bytes of a coordinate (RFC 7518 §6.2.1.2).
    fn width(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// DER contents of its OID (RFC 5480 §2.1.1.1).
    fn oid(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
            Self::P384 => &[0x2b, 0x81, 4, 0, 0x22],
            Self::P521 => &[0x2b, 0x81, 4, 0, 0x23],
        }
    }

    fn verifies_with(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
            Self::P521 => &ECDSA_P521_SHA512_FIXED,
        }
    }
}

impl PublicKey {
    /// From SubjectPublicKeyInfo in DER, with nothing after it.
    ///
    /// # Errors
    /// [`KeyError::Encoding`]; [`KeyError::UnknownType`] names the OID of another kind.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::Encoding)?;
        if !rest.is_empty() {
            return Err(KeyError::Encoding);
        }
        let bits = info.subject_public_key.data.as_ref();
        let unknown = |oid: String| KeyError::UnknownType(oid);
        match info.algorithm.algorithm.as_bytes() {
            EC => {
                let parameters = info.algorithm.parameters.as_ref();
                let named = parameters.and_then(|p| p.as_oid().ok()).ok_or(KeyError::Encoding)?;
                let curve = Curve::ALL.into_iter().find(|c| c.oid() == named.as_bytes());
                let curve = curve.ok_or_else(|| unknown(named.to_id_string()))?;
                match bits.split_first() {
                    Some((4, point)) if point.len() == 2 * curve.width() => {
                        Ok(Self::Ec { curve, point: point.to_vec() })
                    }
                    _ => Err(KeyError::Encoding),
                }
            }
            RSA => {
                let Ok(ParsedKey::RSA(key)) = info.parsed() else {
                    return Err(KeyError::Encoding);
                };
                let number = |bytes: &[u8]| {
                    let zeros = bytes.iter().take_while(|b| **b == 0).count();
                    bytes[zeros..].to_vec()
                };
                Ok(Self::Rsa { n: number(key.modulus), e: number(key.exponent) })
            }
            ED25519 => Ok(Self::Ed25519(bits.try_into().map_err(|_| KeyError::Encoding)?)),
            _ => Err(unknown(info.algorithm.algorithm.to_id_string())),
        }
    }

    /// As SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn to_spki(&self) -> Vec<u8> {
        let (algorithm, key) = match self {
            Self::Ec { curve, point } => {
                let algorithm = [der(6, EC), der(6, curve.oid())].concat();
                (algorithm, [&[4], point.as_slice()].concat())
            }
            Self::Rsa { n, e } => {
                let numbers = [der(2, &positive(n)), der(2, &positive(e))].concat();
                ([der(6, RSA), der(5, &[])].concat(), der(0x30, &numbers))
            }
            Self::Ed25519(key) => (der(6, ED25519), key.to_vec()),
        };
        let bits = [&[0], key.as_slice()].concat();
        der(0x30, &[der(0x30, &algorithm), der(3, &bits)].concat())
    }

    /// From the members of a JWK. `use`, `kid` and `alg` are the caller's to judge.
    ///
    /// # Errors
    /// [`KeyError::UnknownType`] for what a reader ignores, anything else is a bad key.
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<Self, KeyError> {
        let kty = text(jwk, "kty")?;
        if !matches!(kty, "EC" | "RSA" | "OKP") {
            return Err(KeyError::UnknownType(kty.chars().take(64).collect()));
        }
        if ["d", "p", "q", "dp", "dq", "qi", "oth"].iter().any(|m| jwk.contains_key(*m)) {
            return Err(KeyError::Private);
        }
        check_key_ops(jwk)?;
        if kty == "RSA" {
            return Ok(Self::Rsa { n: number(jwk, "n")?, e: number(jwk, "e")? });
        }
        let crv = text(jwk, "crv")?;
        let unknown = || KeyError::UnknownType(crv.chars().take(64).collect());
        if kty == "OKP" {
            if crv != "Ed25519" {
                return Err(unknown());
            }
            let x = coordinate(jwk, "x", 32)?;
            return x.try_into().map(Self::Ed25519).map_err(|_| KeyError::Invalid);
        }
        let curve = Curve::ALL.into_iter().find(|c| c.name() == crv).ok_or_else(unknown)?;
        let x = coordinate(jwk, "x", curve.width())?;
        let y = coordinate(jwk, "y", curve.width())?;
        Ok(Self::Ec { curve, point: [x, y].concat() })
    }

    /// As the members of a JWK that RFC 7638 §3.2 calls required, and no others.
    #[must_use]
    pub fn to_jwk(&self) -> Map<String, Value> {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let members = match self {
            Self::Ec { curve, point } => {
                let (x, y) = point.split_at(curve.width());
                json!({ "kty": "EC", "crv": curve.name(), "x": encode(x), "y": encode(y) })
            }
            Self::Rsa { n, e } => json!({ "kty": "RSA", "n": encode(n), "e": encode(e) }),
            Self::Ed25519(x) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(x) }),
        };
        match members {
            Value::Object(members) => members,
            _ => unreachable!("an object was just built"),
        }
    }

    /// A `kid` that follows from the key itself: its JWK thumbprint (RFC 7638), base64url.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let jwk: std::collections::BTreeMap<_, _> = self.to_jwk().into_iter().collect();
        let text: Vec<String> =
            jwk.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let text = format!("{{{}}}", text.join(","));
        BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
    }

    /// Which key signs in TLS and on certificates, as far as its kind and size say: an ECDSA key of
    /// a known curve, Ed25519, or RSA of 2048 to 8192 bits.
    ///
    /// # Errors
    /// What it is instead.
    pub fn check_signs_tls(spki: &[u8]) -> Result<String, String> {
        match Self::from_spki(spki) {
            Ok(Self::Ec { curve, .. }) => Ok(format!("EC {}", curve.name())),
            Ok(Self::Ed25519(_)) => Ok("Ed25519".into()),
            Ok(Self::Rsa { n, .. }) => {
                let text = format!("RSA of {} bits", bits(&n));
                if RSA_BITS.contains(&bits(&n)) { Ok(text) } else { Err(text) }
            }
            Err(KeyError::UnknownType(oid)) => Err(format!("of an unknown kind, {oid}")),
            Err(_) => Err("not readable".into()),
        }
    }

    /// Whether JWT-SVIDs can be signed with it: on its curve, or RSA of 2048 to 8192 bits.
    ///
    /// # Errors
    /// Which of these it is not.
    pub fn check_signs_jwts(&self) -> Result<(), KeyError> {
        let verifies_with = match self {
            Self::Ec { curve, .. } => curve.verifies_with(),
            Self::Rsa { n, .. } => {
                let bits = bits(n);
                if !RSA_BITS.contains(&bits) {
                    return Err(KeyError::RsaSize(bits));
                }
                &RSA_PKCS1_2048_8192_SHA256
            }
            Self::Ed25519(_) => return Err(KeyError::NotForJwts),
        };
        ParsedPublicKey::new(verifies_with, self.to_spki()).map_err(|_| KeyError::Invalid)?;
        Ok(())
    }
}

/// Which moduli count (RFC 7518 §3.3), bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

fn bits(modulus: &[u8]) -> usize {
    let spare = modulus.first().map_or(0, |b| b.leading_zeros() as usize);
    modulus.len() * 8 - spare
}

/// DER contents of the OIDs id-ecPublicKey, rsaEncryption and id-Ed25519.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

fn check_key_ops(jwk: &Map<String, Value>) -> Result<(), KeyError> {
    match jwk.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(ops)) if ops.iter().any(|op| op == "verify") => Ok(()),
        Some(_) => Err(KeyError::NotForVerifying),
    }
}

fn text<'a>(jwk: &'a Map<String, Value>, member: &'static str) -> Result<&'a str, KeyError> {
    let value = jwk.get(member).ok_or(KeyError::Missing(member))?;
    value.as_str().ok_or(KeyError::Member { member, why: "not a string" })
}

fn bytes(jwk: &Map<String, Value>, member: &'static str) -> Result<Vec<u8>, KeyError> {
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(text(jwk, member)?);
    decoded.map_err(|_| KeyError::Member { member, why: "not base64url without padding" })
}

/// A Base64urlUInt: the shortest form (RFC 7518 §2).
fn number(jwk: &Map<String, Value>, member: &'static str) -> Result<Vec<u8>, KeyError> {
    match bytes(jwk, member)? {
        number if number.is_empty() => Err(KeyError::Member { member, why: "empty" }),
        number if number[0] == 0 => {
            Err(KeyError::Member { member, why: "padded with zeros (RFC 7518 §2)" })
        }
        number => Ok(number),
    }
}

/// A coordinate: always the full width (RFC 7518 §6.2.1.2).
fn coordinate(
    jwk: &Map<String, Value>,
    member: &'static str,
    width: usize,
) -> Result<Vec<u8>, KeyError> {
    let coordinate = bytes(jwk, member)?;
    if coordinate.len() == width {
        Ok(coordinate)
    } else {
        Err(KeyError::Member {
            member,
            why: "not of the length that its curve requires (RFC 7518 §6.2.1.2)",
        })
    }
}

fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len().to_be_bytes();
    let length = &length[length.iter().take_while(|b| **b == 0).count()..];
    let head = match length {
        [] => vec![tag, 0],
        [short @ 0..=127] => vec![tag, *short],
        long => [&[tag, 0x80 | long.len() as u8], long].concat(),
    };
    [head.as_slice(), contents].concat()
}

/// A DER INTEGER's contents: a zero in front where the top bit would mean a sign.
fn positive(number: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if number.first().is_none_or(|b| b & 0x80 != 0) { &[0] } else { &[] };
    [sign, number].concat()
}

#[cfg(test)]
mod tests; // src/identity/jwk/tests.rs
