//! The certificate of an X.509-SVID (X509-SVID §2–§4).

use std::time::{Duration, SystemTime};

use pki_types::CertificateDer;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use time::OffsetDateTime;

use super::signer::{BACKDATE, Signer, hex, named, random_serial, uri};
use crate::identity::SpiffeId;

/// A chain, and what to remember of it.
pub(super) struct Signed {
    /// Leaf first, then intermediates.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Lower-case hex.
    pub(super) serial: String,
    pub(super) not_after: SystemTime,
}

/// Certifies that `id` holds `key`, valid from 10 s ago for `lifetime`, at most as long as the
/// authority.
pub(super) fn sign(
    signer: &Signer,
    id: &SpiffeId,
    key: &impl PublicKeyData,
    lifetime: Duration,
) -> Result<Signed, rcgen::Error> {
    let now = SystemTime::now();
    let wanted = now.checked_add(lifetime).unwrap_or(signer.not_after);
    let not_after = wanted.min(signer.not_after);
    let serial: SerialNumber = random_serial();
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial.clone());
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(not_after);
    params.distinguished_name = named("adit");
    params.subject_alt_names = vec![uri(id.as_str())?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let cert = params.signed_by(key, &signer.issuer)?;
    let mut chain = vec![cert.der().clone()];
    chain.extend(signer.chain.iter().cloned());
    Ok(Signed { chain, serial: hex(&serial.to_bytes()), not_after })
}
