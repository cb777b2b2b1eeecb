//! What the CRLs of a bundle revoke (RFC 5280 §5, §6.3): any certificate of a chain, leaf or
//! intermediate, and an authority that another authority of the bundle has given up.
//!
//! The policy, the same on new connections and on open ones:
//! - Only the CRLs in the bundle of the leaf's own trust domain are asked.
//! - A CRL speaks for what the key that signed it has issued. The issuer's name alone does not
//!   count: an old and a new root often share it. `cRLSign` is not demanded of that key, as a bit
//!   that is missing must not let a revoked certificate in.
//! - Every CRL of that key counts, not only the newest: what one of them names is revoked.
//! - Without a CRL of its issuer a certificate's status is unknown, and that is allowed: SVIDs
//!   live for hours, and most authorities publish no CRL.
//! - A CRL past its nextUpdate is still used, as Istio does: what it names stays revoked, and
//!   nobody else is refused because a CRL was not refreshed.
//! - What cannot be read, or is signed by nobody of that name, revokes nothing, and is told:
//!   [`Revocations::faults`]. A source keeps its last good bundle then; the node logs each.

use std::fmt;

use pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use webpki::{
    BorrowedCertRevocationList, Cert, CertRevocationList, EndEntityCert, RawPublicKeyEntity,
    VerifiedPath, anchor_from_trusted_cert, spki_for_anchor,
};
use x509_parser::asn1_rs::{Any, FromDer};

use super::{TrustBundle, chain_words};

/// The CRLs of one bundle, read and checked once.
#[derive(Default)]
pub struct Revocations {
    crls: Vec<Crl>,
    withdrawn: Vec<CertificateDer<'static>>,
    faults: Vec<String>,
}

/// One that can be used.
struct Crl {
    list: CertRevocationList<'static>,
    signed: Signed,
    this_update: i64,
    next_update: Option<i64>,
    /// The authorities' keys that signed it. Intermediates are known only with a chain.
    signers: Vec<SubjectPublicKeyInfoDer<'static>>,
}

/// The three parts of a signed thing in DER, a CRL or a certificate.
struct Signed {
    body: Vec<u8>,
    algorithm: Vec<u8>,
    signature: Vec<u8>,
}

/// A certificate of a chain that a CRL names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Revoked {
    pub(super) leaf: bool,
    pub(super) serial: String,
}

impl Revocations {
    /// Reads the CRLs of `bundle`.
    #[must_use]
    pub fn of(bundle: &TrustBundle) -> Self {
        let mut all = Self::default();
        let anchors = bundle.authorities.iter().filter_map(|a| anchor_from_trusted_cert(a).ok());
        let anchors: Vec<_> = anchors.map(|a| (a.subject.to_vec(), spki_for_anchor(&a))).collect();
        for (n, der) in bundle.crls.iter().enumerate() {
            let told = |why: &str| format!("CRL {} of {}: {why}", n + 1, bundle.trust_domain);
            let mut crl = match Crl::read(der) {
                Ok(crl) => crl,
                Err(why) => {
                    all.faults.push(told(&format!("{why}; it revokes nothing")));
                    continue;
                }
            };
            let named: Vec<_> = anchors.iter().filter(|(s, _)| *s == crl.list.issuer()).collect();
            let signers = named.iter().map(|(_, key)| key).filter(|key| crl.signed.is_by(key));
            crl.signers = signers.cloned().collect();
            if crl.signers.is_empty() && !named.is_empty() {
                let why = "it names an authority of the bundle as its issuer, but is not signed with \
                     that authority's key; it revokes nothing";
                all.faults.push(told(why));
            }
            all.crls.push(crl);
        }
        all.withdraw(bundle);
        all
    }

    /// An authority that an authority's CRL names is nobody's anchor any more.
    fn withdraw(&mut self, bundle: &TrustBundle) {
        for authority in &bundle.authorities {
            let Ok(cert) = EndEntityCert::try_from(authority) else { continue };
            let names = |crl: &&Crl| crl.list.issuer() == cert.issuer() && crl.names(cert.serial());
            let mut names = self.crls.iter().filter(names).peekable();
            if names.peek().is_none() {
                continue;
            }
            // Roots of one name count their serial numbers each for itself.
            let Some(signed) = Signed::read(authority) else { continue };
            if names.any(|crl| crl.signers.iter().any(|key| signed.is_by(key))) {
                self.withdrawn.push(authority.clone());
            }
        }
    }

    /// Whether an authority of the bundle is one no more.
    pub(super) fn has_withdrawn(&self, authority: &CertificateDer<'_>) -> bool {
        self.withdrawn.contains(authority)
    }

    /// The first certificate of a path that is revoked, from the leaf up.
    pub(super) fn find(&self, path: &VerifiedPath<'_>) -> Option<Revoked> {
        let leaf: &Cert<'_> = path.end_entity();
        let mut below = (leaf, true);
        for issuer in path.intermediate_certificates() {
            if self.revoke(below.0, || issuer.subject_public_key_info()) {
                return Some(Revoked::new(below));
            }
            below = (issuer, false);
        }
        let revoked = self.revoke(below.0, || spki_for_anchor(path.anchor()));
        revoked.then(|| Revoked::new(below))
    }

    fn revoke(
        &self,
        cert: &Cert<'_>,
        issuer_key: impl FnOnce() -> SubjectPublicKeyInfoDer<'static>,
    ) -> bool {
        let mut of_issuer = self.crls.iter().filter(|crl| crl.list.issuer() == cert.issuer());
        let mut named = of_issuer.by_ref().filter(|crl| crl.names(cert.serial())).peekable();
        if named.peek().is_none() {
            return false;
        }
        let key = issuer_key();
        named.any(|crl| crl.signers.contains(&key) || crl.signed.is_by(&key))
    }

    /// What is wrong with the CRLs, one text each: what cannot be used, and so revokes nothing.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// How many CRLs are past their nextUpdate. They are used all the same.
    #[must_use]
    pub fn overdue(&self, now: UnixTime) -> usize {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.crls.iter().filter(|crl| crl.next_update.is_some_and(|next| next < now)).count()
    }

    /// How many more will be soon: when less than a third of their time is left, and less than two
    /// weeks.
    #[must_use]
    pub fn soon_overdue(&self, now: UnixTime) -> usize {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let soon = |crl: &&Crl| {
            let Some(next) = crl.next_update else { return false };
            let ahead = (next.saturating_sub(crl.this_update) / 3).min(14 * 86_400);
            (0..ahead).contains(&next.saturating_sub(now))
        };
        self.crls.iter().filter(soon).count()
    }
}

impl Revoked {
    fn new((cert, leaf): (&Cert<'_>, bool)) -> Self {
        Self { leaf, serial: cert.serial().iter().map(|b| format!("{b:02x}")).collect() }
    }
}

impl Crl {
    fn read(der: &[u8]) -> Result<Self, String> {
        let list = BorrowedCertRevocationList::from_der(der)
            .and_then(|list| list.to_owned())
            .map_err(|e| format!("it cannot be read: {}", chain_words(&e)))?;
        let signed = Signed::read(der).ok_or("it cannot be read")?;
        let (_, dates) = x509_parser::revocation_list::CertificateRevocationList::from_der(der)
            .map_err(|e| format!("it cannot be read ({e})"))?;
        let this_update = dates.last_update().timestamp();
        let next_update = dates.next_update().map(|t| t.timestamp());
        Ok(Self { list: list.into(), signed, this_update, next_update, signers: Vec::new() })
    }

    /// Read whole before: an entry that cannot be read is none.
    fn names(&self, serial: &[u8]) -> bool {
        !matches!(self.list.find_serial(serial), Ok(None))
    }
}

impl Signed {
    fn read(der: &[u8]) -> Option<Self> {
        let (_, whole) = Any::from_der(der).ok()?;
        let (rest, _) = Any::from_der(whole.data).ok()?;
        let body = &whole.data[..whole.data.len() - rest.len()];
        let (rest, algorithm) = Any::from_der(rest).ok()?;
        let (_, signature) = Any::from_der(rest).ok()?;
        let (unused_bits, signature) = signature.data.split_first()?;
        (*unused_bits == 0).then(|| Self {
            body: body.to_vec(),
            algorithm: algorithm.data.to_vec(),
            signature: signature.to_vec(),
        })
    }

    fn is_by(&self, key: &SubjectPublicKeyInfoDer<'_>) -> bool {
        let Ok(key) = RawPublicKeyEntity::try_from(key) else { return false };
        let mut fitting = webpki::ALL_VERIFICATION_ALGS
            .iter()
            .filter(|a| a.signature_alg_id().as_ref() == self.algorithm);
        fitting.any(|a| key.verify_signature(*a, &self.body, &self.signature).is_ok())
    }
}

/// They follow from the bundle, which is compared and shown itself.
impl PartialEq for Revocations {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Revocations {}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revocations({})", self.crls.len())
    }
}
