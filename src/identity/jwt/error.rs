//! Why a token is not an acceptable JWT-SVID: one variant per rule, with the clause it comes from.

use crate::identity::{InvalidSpiffeId, KeyError, SpiffeId, TrustDomain, length};

/// Why a token is not an acceptable JWT-SVID. Texts of the token are cut to 64 characters.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JwtError {
    /// Longer than [`super::MAX_TOKEN`].
    #[error("the token has {0} bytes, the limit is {max}", max = super::MAX_TOKEN)]
    TooLong(usize),
    /// The JSON Serialization (§1).
    #[error(
        "the token is in the JWS JSON Serialization, only the compact one is allowed (JWT-SVID §1, \
         §5.1)"
    )]
    JsonSerialization,
    /// Not three parts.
    #[error(
        "the token has {parts} parts, the JWS Compact Serialization has 3 (JWT-SVID §5.1, RFC 7515 \
         §3.1)"
    )]
    NotCompact {
        /// How many.
        parts: usize,
    },
    /// A part that is not base64url.
    #[error("the token's {0} is not base64url without padding (RFC 7515 §2)")]
    Encoding(&'static str),
    /// Header or claims are no JSON object.
    #[error("the token's {part} is not a JSON object: {why} (RFC 7515 §4, RFC 7519 §7.2)")]
    Json {
        /// Which part.
        part: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A member that is listed twice.
    #[error("the token's {part} has a member {name:?} twice (RFC 7515 §4, RFC 7519 §4)")]
    DuplicateMember {
        /// Which part.
        part: &'static str,
        /// The member.
        name: String,
    },
    /// `alg` is not one of the nine, or missing.
    #[error(
        "the token's alg {0:?} is not allowed: it must be RS, PS or ES with 256, 384 or 512 \
         (JWT-SVID §2.1)"
    )]
    Algorithm(String),
    /// A header that must not be there.
    #[error("the token's header has {0:?}, only alg, kid and typ are allowed (JWT-SVID §2)")]
    HeaderMember(String),
    /// `typ` is neither of the two.
    #[error("the token's typ {0} is neither JWT nor JOSE (JWT-SVID §2.3)")]
    Type(String),
    /// No `kid`, or none that is a text. The spec allows it; go-spiffe, rust-spiffe and SPIRE
    /// refuse it, as here.
    #[error("the token has no kid, which adit requires (JWT-SVID §2.2 leaves it open)")]
    NoKeyId,
    /// A claim that must be there.
    #[error("the token has no claim {0} (JWT-SVID §3)")]
    NoClaim(&'static str),
    /// A claim of another type.
    #[error("the token's claim {0} is not {1} (JWT-SVID §3, RFC 7519 §4.1)")]
    ClaimType(&'static str, &'static str),
    /// `sub` is not a SPIFFE ID.
    #[error("the token's sub is not a SPIFFE ID (JWT-SVID §3.1): {0}")]
    NotSpiffeId(InvalidSpiffeId),
    /// `sub` names the trust domain itself.
    #[error(
        "the token's sub {0} has no path: it names the trust domain, not a workload (JWT-SVID §3.1)"
    )]
    NoPath(SpiffeId),
    /// `aud` has no value, or an empty one.
    #[error("the token's aud is empty (JWT-SVID §3.2)")]
    EmptyAudience,
    /// There is no bundle for the trust domain of `sub`.
    #[error("trust domain {0} has no bundle here")]
    UnknownTrustDomain(TrustDomain),
    /// The trust domain of `sub` has no such key, whatever others have.
    #[error("trust domain {trust_domain} has no JWT authority {key_id:?} (JWT-SVID §6.2)")]
    UnknownKey {
        /// The token's `kid`.
        key_id: String,
        /// The trust domain of `sub`.
        trust_domain: TrustDomain,
    },
    /// The bundle's key signs no JWT-SVIDs.
    #[error("JWT authority {key_id:?} cannot be used: {why}")]
    BadKey {
        /// The token's `kid`.
        key_id: String,
        /// Why.
        why: KeyError,
    },
    /// `alg` does not go with the key that `kid` names.
    #[error("JWT authority {key_id:?} is not a key for {algorithm} (RFC 7518 §3)")]
    KeyMismatch {
        /// The token's `alg`.
        algorithm: &'static str,
        /// The token's `kid`.
        key_id: String,
    },
    /// The signature is not by that key over this token.
    #[error("the token's signature is wrong (JWT-SVID §4)")]
    Signature,
    /// `exp` is now or past.
    #[error(
        "the JWT-SVID of {id} expired {} ago (JWT-SVID §3.3, RFC 7519 §4.1.4)",
        length(*ago_seconds)
    )]
    Expired {
        /// Whose.
        id: SpiffeId,
        /// Since when.
        ago_seconds: u64,
    },
    /// `nbf` is in the future.
    #[error(
        "the JWT-SVID of {id} is not valid yet, for another {} (RFC 7519 §4.1.5)",
        length(*in_seconds)
    )]
    NotYetValid {
        /// Whose.
        id: SpiffeId,
        /// Until when.
        in_seconds: u64,
    },
    /// It is for somebody else.
    #[error("the token is for {presented:?}, not for {expected:?} (JWT-SVID §3.2)")]
    Audience {
        /// Its `aud`, the first eight.
        presented: Vec<String>,
        /// Who was asked for.
        expected: String,
    },
}
