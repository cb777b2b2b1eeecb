//! Whether a chain proves a SPIFFE ID (X509-SVID §5): leaf rules, validity, then RFC 5280
//! path building to the bundle of the leaf's own trust domain and to no other, then that
//! bundle's CRLs ([`super::revocation`]).
//!
//! Clocks: none is forgiven. A certificate is valid from the first to the last second that it
//! names, both whole (RFC 5280 §4.1.2.5); issuers set its start back by some seconds instead.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::{
    BundleSet, PublicKey, Revocations, SpiffeId, SvidError, TrustBundle, TrustDomain, constraints,
    revocation::Revoked,
    svid_error::{KEYS, MAX_CHAIN},
    words::{chain_words, moment},
    x509::{Leaf, parse_leaf_by},
};

/// What the peer's certificate is used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// The peer is a TLS server.
    Server,
    /// The peer is a TLS client.
    Client,
}

/// Judges a chain, leaf first, as of `now`.
///
/// # Errors
/// The most telling reason: leaf rules before validity, validity before trust.
pub fn verify_svid(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: UnixTime,
    purpose: Purpose,
) -> Result<SpiffeId, SvidError> {
    let leaf_der = chain.first().ok_or(SvidError::NoCertificate)?;
    if chain.len() > MAX_CHAIN {
        return Err(SvidError::ChainTooLong(chain.len()));
    }
    let rule_of = |domain: &TrustDomain| bundles.get(domain).map(|bundle| bundle.key_usage);
    let leaf = parse_leaf_by(leaf_der, |domain| rule_of(domain).unwrap_or_default())?;
    check_validity(&leaf, now)?;
    check_path(chain, &leaf, bundles, now, purpose)?;
    Ok(leaf.id)
}

/// Whether a leaf is valid at `now`: after its start, before its end, both whole seconds.
pub(super) fn check_validity(leaf: &Leaf, now: UnixTime) -> Result<(), SvidError> {
    let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
    if let Ok(ago) = clock.duration_since(leaf.not_after)
        && ago > Duration::ZERO
    {
        let (id, at) = (leaf.id.clone(), moment(leaf.not_after));
        return Err(SvidError::Expired { id, at, ago_seconds: ago.as_secs() });
    }
    if let Ok(ahead) = leaf.not_before.duration_since(clock)
        && ahead > Duration::ZERO
    {
        let (id, at) = (leaf.id.clone(), moment(leaf.not_before));
        return Err(SvidError::NotYetValid { id, at, in_seconds: ahead.as_secs() });
    }
    Ok(())
}

/// Whether a chain leads to the bundle of `leaf`'s trust domain, and nothing of it is revoked.
/// What the leaf itself says was judged before.
pub(super) fn check_path(
    chain: &[CertificateDer<'_>],
    leaf: &Leaf,
    bundles: &BundleSet,
    now: UnixTime,
    purpose: Purpose,
) -> Result<(), SvidError> {
    let (leaf_der, intermediates) = chain.split_first().ok_or(SvidError::NoCertificate)?;
    let bundle = bundles.of(leaf.id.trust_domain())?;
    let revocations = bundles.revocations(leaf.id.trust_domain());
    let (trusted, anchors) = trust_anchors(bundle, revocations);
    // A peer may send its root along: that is trusted as it is.
    for ca in intermediates.iter().filter(|ca| !trusted.iter().any(|root| root == ca)) {
        check_signer(ca)?;
    }
    // Where several paths lead up, one that is accepted is enough.
    let (outside, revoked) = (Cell::new(None), Cell::new(None));
    let accept = |path: &VerifiedPath<'_>| match revocations.and_then(|r| r.find(path)) {
        None => {
            // A root's own dates count as those of the chain below it do.
            let at = anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
            match at.and_then(|at| outside_validity(trusted[at], now)) {
                None => Ok(()),
                some => {
                    outside.set(some);
                    Err(webpki::Error::UnknownIssuer)
                }
            }
        }
        found => {
            revoked.set(found);
            Err(webpki::Error::CertRevoked)
        }
    };
    let usage = match purpose {
        Purpose::Server => KeyUsage::server_auth(),
        Purpose::Client => KeyUsage::client_auth(),
    };
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    let found = EndEntityCert::try_from(leaf_der).and_then(|leaf| {
        let path = leaf.verify_for_usage(
            algorithms,
            &anchors,
            intermediates,
            now,
            usage,
            None,
            Some(&accept),
        );
        path.map(drop)
    });
    found.map_err(|error| {
        let rejected = Rejected { outside: outside.take(), revoked: revoked.take() };
        path_error(error, chain, leaf, bundle, rejected)
    })
}

/// The authorities of a bundle that can be a path's end, each with what the path builder takes.
/// One that cannot be read, certifies nobody or is withdrawn is left out; the others still count.
fn trust_anchors<'a>(
    bundle: &'a TrustBundle,
    revocations: Option<&Revocations>,
) -> (Vec<&'a CertificateDer<'static>>, Vec<TrustAnchor<'a>>) {
    bundle
        .authorities
        .iter()
        .filter(|der| !revocations.is_some_and(|r| r.has_withdrawn(der)))
        .filter(|der| check_root(der).is_ok())
        .filter_map(|der| Some((der, webpki::anchor_from_trusted_cert(der).ok()?)))
        .unzip()
}

/// Why the last path that led to an authority was not accepted.
struct Rejected {
    /// The authority is not valid now.
    outside: Option<String>,
    revoked: Option<Revoked>,
}

/// Why no path leads from `leaf` to `bundle`.
fn path_error(
    error: webpki::Error,
    chain: &[CertificateDer<'_>],
    leaf: &Leaf,
    bundle: &TrustBundle,
    rejected: Rejected,
) -> SvidError {
    match (error, rejected.outside) {
        (webpki::Error::UnknownIssuer, Some(why)) => SvidError::Untrusted(why),
        (webpki::Error::UnknownIssuer, None) => {
            let barred = barred(chain, &bundle.authorities).map(|(name, why)| {
                format!("the authority {name} that it leads to cannot be used: {why}")
            });
            let unknown = || chain_words(&webpki::Error::UnknownIssuer);
            SvidError::Untrusted(barred.unwrap_or_else(unknown))
        }
        (webpki::Error::CertRevoked, _) => {
            let (what, serial) = match rejected.revoked {
                Some(by) if !by.leaf => ("the intermediate", by.serial),
                by => ("the leaf", by.map_or(leaf.serial.clone(), |by| by.serial)),
            };
            SvidError::Revoked { id: leaf.id.clone(), what, serial }
        }
        (webpki::Error::RequiredEkuNotFoundContext(_), _) => SvidError::Purpose,
        (webpki::Error::NameConstraintViolation, _) => {
            let why = constraints::explain(chain, &bundle.authorities);
            let broken = "it violates the name constraints of an authority above it";
            SvidError::Untrusted(why.unwrap_or_else(|| broken.into()))
        }
        (other, _) => SvidError::Untrusted(chain_words(&other)),
    }
}

/// Says so if an authority is not valid at `now`, or cannot be read.
pub(super) fn outside_validity(der: &CertificateDer<'_>, now: UnixTime) -> Option<String> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let Ok((_, authority)) = X509Certificate::from_der(der) else {
        return Some("its authority cannot be read".into());
    };
    let (from, until) = (authority.validity().not_before, authority.validity().not_after);
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let valid = (from.timestamp()..=until.timestamp()).contains(&now);
    (!valid)
        .then(|| format!("its authority is not valid now; it is valid from {from} until {until}"))
}

/// A signing certificate has `cA` and `keyCertSign` (X509-SVID §4.1, §4.3).
pub(crate) fn check_signer(der: &CertificateDer<'_>) -> Result<(), SvidError> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let unreadable = || SvidError::Untrusted("an intermediate cannot be read".into());
    let (_, ca) = X509Certificate::from_der(der).map_err(|_| unreadable())?;
    let is_ca = ca.basic_constraints().ok().flatten().is_some_and(|c| c.value.ca);
    let signs = ca.key_usage().ok().flatten().is_some_and(|u| u.value.key_cert_sign());
    let key = PublicKey::check_signs_tls(ca.public_key().raw);
    match (is_ca, signs) {
        (false, _) => Err(SvidError::Untrusted("an intermediate is not a CA".into())),
        (_, false) => Err(SvidError::Untrusted("an intermediate lacks keyCertSign".into())),
        _ => key
            .map(drop)
            .map_err(|key| SvidError::Untrusted(format!("an intermediate's key is {key}; {KEYS}"))),
    }
}

/// Whether a trusted certificate may certify others: it need not say so, but must not say that it
/// may not, and its key must be one that proves something.
///
/// # Errors
/// Why not.
pub(crate) fn check_root(der: &CertificateDer<'_>) -> Result<(), String> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let Ok((_, root)) = X509Certificate::from_der(der) else {
        return Err("it cannot be read".into());
    };
    let constraints = root.basic_constraints().map_err(|e| e.to_string())?;
    let usage = root.key_usage().map_err(|e| e.to_string())?;
    if constraints.is_some_and(|c| !c.value.ca) {
        return Err("it is not a CA certificate (CA:FALSE)".into());
    }
    if usage.is_some_and(|u| !u.value.key_cert_sign()) {
        return Err("its key usage lacks keyCertSign".into());
    }
    let key = PublicKey::check_signs_tls(root.public_key().raw);
    key.map(drop).map_err(|key| format!("its key is {key}; {KEYS}"))
}

/// The root above this chain that may certify nobody, and why, if there is one by its name.
pub(crate) fn barred(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
) -> Option<(String, String)> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let parsed = |der| Some(X509Certificate::from_der(der).ok()?.1);
    let issuers: Vec<_> = chain.iter().take(MAX_CHAIN).filter_map(|der| parsed(der)).collect();
    roots.iter().find_map(|der| {
        let root = parsed(der)?;
        let above = issuers.iter().any(|cert| cert.issuer() == root.subject());
        let why = check_root(der).err().filter(|_| above)?;
        Some((root.subject().to_string().chars().take(256).collect(), why))
    })
}
