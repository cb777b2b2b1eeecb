//! What of the files of a service is to be warned of before peers are refused, or refuse us.

use pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList,
    time::ASN1Time,
};

use super::roots::seconds;
use crate::identity::check_signer;

/// When roots, CRLs and our own certificate end that are refused from then on.
#[derive(Clone, Debug, Default)]
pub struct Expiries {
    all: Vec<Expiry>,
    /// What is wrong whatever the time.
    faults: Vec<String>,
}

#[derive(Clone, Debug)]
struct Expiry {
    what: String,
    from: ASN1Time,
    until: ASN1Time,
    /// What is to be done about it, behind the rest.
    advice: &'static str,
}

/// How long before something ends it is warned of, but no longer than a third of its time.
const AHEAD: i64 = 14 * 86_400;

impl Expiries {
    /// Reads them; what cannot be read was told when it came in.
    #[must_use]
    pub fn of(roots: &[CertificateDer<'_>], crls: &[CertificateRevocationListDer<'_>]) -> Self {
        let roots = roots.iter().filter_map(|der| {
            let (_, root) = X509Certificate::from_der(der).ok()?;
            let (from, until) = (root.validity().not_before, root.validity().not_after);
            Some(Expiry { what: format!("root {}", root.subject()), from, until, advice: "" })
        });
        let crls = crls.iter().filter_map(|der| {
            let (_, crl) = CertificateRevocationList::from_der(der).ok()?;
            let (from, until) = (crl.last_update(), crl.next_update()?);
            Some(Expiry { what: format!("CRL of {}", crl.issuer()), from, until, advice: "" })
        });
        Self { all: roots.chain(crls).collect(), faults: Vec::new() }
    }

    /// And what peers will find wrong with the certificates above our own, leaf first.
    #[must_use]
    pub fn and_own(mut self, chain: &[CertificateDer<'_>]) -> Self {
        for der in chain.iter().skip(1) {
            let Err(why) = check_signer(der) else { continue };
            let name = X509Certificate::from_der(der).map(|(_, cert)| cert.subject().to_string());
            let name = name.unwrap_or_default().chars().take(256).collect::<String>();
            self.faults.push(format!(
                "peers may refuse our chain, because of its intermediate {name}: {why}"
            ));
        }
        self
    }

    /// And the certificate that we show, which somebody else renews; `chain` begins with it.
    #[must_use]
    pub fn and_leaf(mut self, chain: &[CertificateDer<'_>]) -> Self {
        let leaf = chain.first().and_then(|der| X509Certificate::from_der(der).ok());
        self.all.extend(leaf.map(|(_, leaf)| {
            let (from, until) = (leaf.validity().not_before, leaf.validity().not_after);
            let name: String = leaf.subject().to_string().chars().take(256).collect();
            let advice = "; renew it, and put the new one in its place";
            Expiry { what: format!("own certificate {name}"), from, until, advice }
        }));
        self
    }

    /// What has ended at `now`, or soon will have, one text each.
    #[must_use]
    pub fn soon(&self, now: UnixTime) -> Vec<String> {
        let now = seconds(now);
        let texts = self.all.iter().filter_map(|Expiry { what, from, until, advice }| {
            let left = until.timestamp().saturating_sub(now);
            let life = until.timestamp().saturating_sub(from.timestamp());
            match left {
                _ if from.timestamp() > now => {
                    Some(format!("{what} is not valid yet: it is valid from {from}"))
                }
                ..0 => Some(format!("{what} has expired: it was valid until {until}{advice}")),
                0.. if left < AHEAD.min(life / 3) => {
                    Some(format!("{what} expires soon: it is valid until {until}{advice}"))
                }
                0.. => None,
            }
        });
        texts.chain(self.faults.iter().cloned()).collect()
    }
}
