//! The answers of the Workload API, read by its rules: one that breaks a rule is discarded whole
//! (Workload API §4.5).

use pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    error::ClientError,
    types::{HintedSvid, HintedToken, X509Context},
};
use crate::{
    identity::{
        BundleSet, PrivateKey, SpiffeId, SvidError, TrustBundle, TrustDomain, X509Svid, parse_leaf,
    },
    rpc::workload::{JwtsvidResponse, X509svidResponse},
};

/// As many SVIDs and trust domains as anybody needs.
const MOST: usize = 10_000;
/// As many certificates as a bundle may have.
const MOST_AUTHORITIES: usize = 1000;

/// The tokens of an answer: at least one, and of `id` only if that is given.
pub(crate) fn tokens(
    answer: JwtsvidResponse,
    id: Option<&SpiffeId>,
) -> Result<Vec<HintedToken>, ClientError> {
    let svids = answer.svids.into_iter().map(|svid| {
        let of = parse_id(&svid.spiffe_id)?;
        if svid.svid.is_empty() {
            return Err(unusable(format!("the token of {of} is empty")));
        }
        Ok(HintedToken { id: of, token: svid.svid, hint: svid.hint })
    });
    let svids: Vec<_> = svids.collect::<Result<_, ClientError>>()?;
    match id {
        _ if svids.is_empty() => Err(unusable("it has no JWT-SVID".into())),
        Some(id) if svids.iter().any(|svid| svid.id != *id) => {
            Err(unusable(format!("it has a JWT-SVID of an identity other than {id}")))
        }
        _ => Ok(svids),
    }
}

pub(super) fn x509_context(message: X509svidResponse) -> Result<X509Context, ClientError> {
    if message.svids.is_empty() {
        return Err(unusable("it has no SVID (Workload API §5.2.1)".into()));
    }
    if message.svids.len() > MOST {
        return Err(unusable(format!("it has {} SVIDs, the limit is {MOST}", message.svids.len())));
    }
    let mut bundles = bundle_set(message.federated_bundles)?;
    let mut svids = Vec::with_capacity(message.svids.len());
    for mut svid in message.svids {
        let key = PrivateKey::from_pkcs8(std::mem::take(&mut svid.x509_svid_key));
        let id = parse_id(&svid.spiffe_id)?;
        let about = |why: String| unusable(format!("{id}: {why}"));
        let chain = certificates(&svid.x509_svid, 8).map_err(about)?;
        let own = x509_svid(&id, chain, key).map_err(about)?;
        let authorities = certificates(&svid.bundle, MOST_AUTHORITIES).map_err(about)?;
        bundles.insert(TrustBundle::new(id.trust_domain().clone(), authorities));
        svids.push(HintedSvid { svid: own, hint: svid.hint });
    }
    add_crls(&mut bundles, message.crl);
    Ok(X509Context { svids, bundles })
}

fn x509_svid(
    id: &SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
) -> Result<X509Svid, String> {
    let leaf_der = chain.first().ok_or("it has no certificate")?;
    let leaf = parse_leaf(leaf_der).map_err(|e: SvidError| e.to_string())?;
    if leaf.id != *id {
        return Err(format!("its certificate is for {}", leaf.id));
    }
    if !key_matches(leaf_der, &key) {
        return Err("its key is not PKCS#8, or does not belong to its certificate".into());
    }
    Ok(X509Svid::of(leaf, chain, key))
}

/// Whether `key` is the private key of the certificate.
pub(crate) fn key_matches(certificate: &CertificateDer<'_>, key: &PrivateKey) -> bool {
    use rcgen::PublicKeyData;
    let der = pki_types::PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8()));
    let (Ok(pair), Ok((_, certificate))) =
        (rcgen::KeyPair::try_from(&der), X509Certificate::from_der(certificate))
    else {
        return false;
    };
    certificate.public_key().subject_public_key.data.as_ref() == pair.der_bytes()
}

/// Concatenated DER, taken apart.
pub(crate) fn certificates(
    mut der: &[u8],
    most: usize,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der)
            .map_err(|e| format!("certificate {} of the list is damaged: {e}", all.len() + 1))?;
        if all.len() == most {
            return Err(format!("more than {most} certificates"));
        }
        all.push(CertificateDer::from(der[..der.len() - rest.len()].to_vec()));
        der = rest;
    }
    if all.is_empty() {
        Err("a field that must contain a certificate is empty".into())
    } else {
        Ok(all)
    }
}

pub(super) fn bundle_set(
    bundles: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> Result<BundleSet, ClientError> {
    let bundle = |(key, der): (String, Vec<u8>)| {
        let domain = domain_of_key(&key)?;
        let authorities = certificates(&der, MOST_AUTHORITIES)
            .map_err(|why| unusable(format!("the bundle of {domain}: {why}")))?;
        Ok(TrustBundle::new(domain, authorities))
    };
    bundles.into_iter().map(bundle).collect()
}

/// CRLs come without the name of a trust domain: each goes to the bundles that have its issuer.
pub(super) fn add_crls(bundles: &mut BundleSet, crls: Vec<Vec<u8>>) {
    use x509_parser::revocation_list::CertificateRevocationList;
    let of = |crl: &[u8], bundle: &TrustBundle| {
        let Ok((_, list)) = CertificateRevocationList::from_der(crl) else { return false };
        bundle.authorities.iter().any(|authority| {
            let issuer = X509Certificate::from_der(authority);
            issuer.is_ok_and(|(_, ca)| ca.subject().as_raw() == list.issuer().as_raw())
        })
    };
    let mut changed: Vec<TrustBundle> = bundles.iter().cloned().collect();
    for bundle in &mut changed {
        let own = crls.iter().filter(|crl| of(crl, bundle)).cloned();
        bundle.crls = own.map(Into::into).collect();
    }
    *bundles = changed.into_iter().collect();
}

/// The key of a map is the SPIFFE ID of a trust domain.
pub(crate) fn domain_of_key(key: &str) -> Result<TrustDomain, ClientError> {
    let id = parse_id(key)?;
    if id.path().is_empty() {
        return Ok(id.trust_domain().clone());
    }
    Err(unusable(format!("{id} is not a trust domain")))
}

pub(super) fn parse_id(text: &str) -> Result<SpiffeId, ClientError> {
    text.parse().map_err(|e| unusable(format!("{text:?}: {e}")))
}

fn unusable(why: String) -> ClientError {
    ClientError::Unusable(why)
}

/// A JSON value that came as protobuf's `Value`.
pub(super) fn json(value: prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(bool)) => bool.into(),
        // Whole numbers, such as times, as such.
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 9e15 => (n as i64).into(),
        Some(Kind::NumberValue(n)) => n.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect(),
        Some(Kind::StructValue(map)) => {
            Value::Object(map.fields.into_iter().map(|(k, v)| (k, json(v))).collect())
        }
    }
}
