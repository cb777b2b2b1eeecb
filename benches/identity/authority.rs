//! The embedded CA, part by part, on one core; and whole on one and on two.

use std::{hint::black_box, thread, time::Duration};

use adit::{authority::EmbeddedCa, identity::SpiffeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair, KeyUsagePurpose as Ku, SanType,
    SerialNumber,
};
use time::OffsetDateTime;

use crate::{
    Print,
    timing::{Cost, measured, median, stay_on_one_core},
};

const HOUR: Duration = Duration::from_secs(3600);
/// SVIDs between two looks at the clock.
const BATCH: usize = 500;

pub(crate) fn run(rounds: usize, short: bool, print: Print) {
    let batch = if short { 5 } else { BATCH };
    let (bare, dir) = (Bare::new(), tempfile::tempdir().expect("a directory"));
    let domain = "td".parse().expect("a trust domain");
    let ca = EmbeddedCa::open(dir.path(), &domain, HOUR).expect("a CA");
    let ids: Vec<SpiffeId> = (0..batch).map(id).collect();
    let key = KeyPair::generate().expect("a key");
    let each = |work: &dyn Fn(&SpiffeId)| measured(|| ids.iter().for_each(work));
    let parts: [(&str, &(dyn Fn() -> Cost + Sync)); 6] = [
        ("one core: rcgen, key and certificate", &|| {
            each(&|id| bare.sign(id, &KeyPair::generate().expect("a key")))
        }),
        ("one core: adit, key and certificate", &|| {
            each(&|id| drop(black_box(ca.issue(id).expect("an SVID"))))
        }),
        ("one core: key alone", &|| each(&|_| drop(black_box(KeyPair::generate())))),
        ("one core: CSR made, read and proven", &|| each(&|id| csr(id, &key))),
        ("one core: rcgen, certificate alone", &|| each(&|id| bare.sign(id, &key))),
        ("one core: adit, certificate alone", &|| {
            each(&|id| drop(black_box(ca.sign(id, &key, HOUR).expect("signed"))))
        }),
    ];
    // In a thread of its own, so that the next ones have both cores.
    let costs = thread::scope(|scope| {
        let alone = scope.spawn(|| {
            stay_on_one_core();
            turns(rounds, &parts)
        });
        alone.join().expect("measured")
    });
    let cpu = |n: usize| median(costs[n].iter().map(|c| c.cpu / batch as f64));
    for (n, (name, _)) in parts.iter().enumerate() {
        let mut said = vec![("cpu_us", cpu(n) * 1e6), ("per_core_second", 1.0 / cpu(n))];
        if name.contains("adit") {
            let same = if n == 1 { 0 } else { 4 };
            said.push(("rate_of_rcgen", ratio(&costs[same], &costs[n], |c| c.cpu)));
        }
        print(name, &said);
    }
    let both: [(&str, &(dyn Fn() -> Cost + Sync)); 3] = [
        ("one thread: adit", &|| each(&|id| drop(black_box(ca.issue(id).expect("an SVID"))))),
        ("two threads: rcgen", &|| {
            twice(&ids, |id| bare.sign(id, &KeyPair::generate().expect("a key")))
        }),
        ("two threads: adit", &|| {
            twice(&ids, |id| drop(black_box(ca.issue(id).expect("an SVID"))))
        }),
    ];
    let costs = turns(rounds, &both);
    for (n, (name, _)) in both.iter().enumerate() {
        let made = if n == 0 { batch } else { 2 * batch } as f64;
        let mut said = vec![
            ("per_second", median(costs[n].iter().map(|c| made / c.wall))),
            ("cpu_us", median(costs[n].iter().map(|c| c.cpu / made)) * 1e6),
        ];
        if n == 2 {
            said.push(("rate_of_rcgen", ratio(&costs[1], &costs[2], |c| c.wall)));
            said.push(("rate_of_one_thread", 2.0 * ratio(&costs[0], &costs[2], |c| c.wall)));
        }
        print(name, &said);
    }
}

/// The cases by turns, so that what else the machine does meets all of them.
fn turns(rounds: usize, cases: &[(&str, &(dyn Fn() -> Cost + Sync))]) -> Vec<Vec<Cost>> {
    let mut costs = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        cases.iter().zip(&mut costs).for_each(|((_, case), costs)| costs.push(case()));
    }
    costs
}

/// Of what the same round cost.
pub(crate) fn ratio(of: &[Cost], to: &[Cost], which: fn(&Cost) -> f64) -> f64 {
    median(of.iter().zip(to).map(|(of, to)| which(of) / which(to)))
}

fn twice(ids: &[SpiffeId], work: impl Fn(&SpiffeId) + Sync) -> Cost {
    measured(|| {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| ids.iter().for_each(&work));
            }
        });
    })
}

fn id(n: usize) -> SpiffeId {
    format!("spiffe://td/ns/shop/sa/pod-{n}").parse().expect("a SPIFFE ID")
}

fn csr(id: &SpiffeId, key: &KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().expect("ASCII"))];
    let csr = params.serialize_request(key).expect("a CSR");
    black_box(CertificateSigningRequestParams::from_der(csr.der()).expect("a sound CSR"));
}

/// rcgen with adit's template, an issuer in memory, and nothing on record.
struct Bare(Issuer<'static, KeyPair>);

impl Bare {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![Ku::KeyCertSign, Ku::CrlSign];
        Self(Issuer::new(params, key))
    }

    fn sign(&self, id: &SpiffeId, key: &KeyPair) {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(rand::random::<[u8; 16]>().to_vec()));
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(10);
        params.not_after = OffsetDateTime::now_utc() + HOUR;
        params.distinguished_name.push(DnType::CommonName, "a workload");
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().expect("ASCII"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![Ku::DigitalSignature];
        params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        black_box(params.signed_by(key, &self.0).expect("signed"));
    }
}
