//! A `CreateCertificate` request with its CSR.

use std::time::Duration;

use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};

use crate::{identity::SpiffeId, rpc::istio_ca::IstioCertificateRequest};

/// PKCS#10: no subject, and so one critical URI SAN (RFC 5280 §4.2.1.6).
pub(super) fn csr(id: &SpiffeId, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.serialize_request(key)?.pem()
}

/// The request for an SVID of `id` that serves for `lifetime`.
pub(super) fn message(id: &SpiffeId, csr: String, lifetime: Duration) -> IstioCertificateRequest {
    let asked_for = Value { kind: Some(Kind::StringValue(id.to_string())) };
    let fields = [("ImpersonatedIdentity".to_owned(), asked_for)];
    IstioCertificateRequest {
        csr,
        validity_duration: i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX),
        metadata: Some(Struct { fields: fields.into_iter().collect() }),
    }
}
