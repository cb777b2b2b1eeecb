//! SVIDs as `istioctl` prints them.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use pki_types::CertificateDer;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    credentials::SvidStatus,
    identity::{BundleSet, SpiffeId, X509Svid, armour},
};

/// One SVID.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateView {
    #[serde(flatten)]
    pub(crate) status: SvidStatus,
    /// Leaf first, no root.
    pub(crate) cert_chain: Vec<CertView>,
    /// Who is trusted in its trust domain.
    pub(crate) root_certs: Vec<CertView>,
}

/// One certificate.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertView {
    /// Its PEM text in base64 once more.
    pem: String,
    /// Decimal.
    serial_number: String,
    /// RFC 3339.
    valid_from: String,
    /// RFC 3339.
    expiration_time: String,
}

impl CertView {
    fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let rfc3339 = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
        let validity = certificate.validity();
        Some(Self {
            pem: BASE64.encode(armour("CERTIFICATE", der)),
            serial_number: certificate.tbs_certificate.serial.to_string(),
            valid_from: rfc3339(validity.not_before.to_datetime()),
            expiration_time: rfc3339(validity.not_after.to_datetime()),
        })
    }
}

type SvidWithStatus = (SvidStatus, Option<Arc<X509Svid>>);

/// Each.
pub(super) fn all(held: Vec<SvidWithStatus>, bundles: &BundleSet) -> Vec<CertificateView> {
    let view = |(status, svid): SvidWithStatus| {
        let chain = svid.as_ref().map_or(&[][..], |svid| &svid.chain);
        let roots = status.identity.parse::<SpiffeId>().ok().and_then(|id| {
            let bundle = bundles.get(id.trust_domain())?;
            Some(bundle.authorities.iter().filter_map(CertView::of).collect())
        });
        CertificateView {
            cert_chain: chain.iter().filter_map(CertView::of).collect(),
            // As whoever has no certificate has none to be checked against.
            root_certs: roots.filter(|_| svid.is_some()).unwrap_or_default(),
            status,
        }
    };
    held.into_iter().map(view).collect()
}

/// The one of each identity that lasts longest: pods of one identity have one each.
pub(super) fn one_for_each_identity(
    mut held: Vec<SvidWithStatus>,
    bundles: &BundleSet,
) -> Vec<CertificateView> {
    let until = |held: &SvidWithStatus| held.1.as_ref().map(|svid| svid.not_after);
    held.sort_by(|a, b| a.0.identity.cmp(&b.0.identity).then(until(b).cmp(&until(a))));
    held.dedup_by(|later, first| later.0.identity == first.0.identity);
    all(held, bundles)
}
