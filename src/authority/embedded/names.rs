//! Certificates of the embedded CA for host names: for its own server, never for a workload.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use pki_types::CertificateDer;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData};
use time::OffsetDateTime;

use super::{
    CaError, EmbeddedCa,
    signer::{BACKDATE, named, random_serial},
};

/// A certificate for host names.
pub(crate) struct NamedCertificate {
    /// Leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The authority that signed it.
    pub(crate) under: Arc<str>,
    /// When it expires.
    pub(crate) not_after: SystemTime,
}

impl EmbeddedCa {
    /// A certificate for a TLS server under `names`, DNS names and IP addresses, valid for
    /// `lifetime`, at most as long as the authority. It has no SPIFFE ID, and so is not an SVID.
    ///
    /// # Errors
    /// A name that no certificate can have; otherwise as [`EmbeddedCa::sign`].
    pub(crate) fn certify_names(
        &self,
        names: &[String],
        key: &impl PublicKeyData,
        lifetime: Duration,
    ) -> Result<NamedCertificate, CaError> {
        let lock = self.store.lock_shared()?;
        let loaded = self.current(&lock)?;
        let signer = &loaded.signer;
        signer.check_key_is_still_there()?;
        let now = SystemTime::now();
        let mut params = CertificateParams::new(names)?;
        params.serial_number = Some(random_serial());
        params.not_before = OffsetDateTime::from(now - BACKDATE);
        let not_after = (now + lifetime).min(signer.not_after);
        params.not_after = OffsetDateTime::from(not_after);
        params.distinguished_name = named("adit CA server");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &signer.issuer)?.der().clone();
        let chain = [leaf].into_iter().chain(signer.chain.iter().cloned()).collect();
        Ok(NamedCertificate { chain, under: Arc::clone(&signer.id), not_after })
    }
}
