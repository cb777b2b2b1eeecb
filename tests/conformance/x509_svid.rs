//! X509-SVID §2–§5: the corpus of leaves and chains, made here, judged by the one verifier
//! that both sides of every handshake use.

use std::time::Duration;

use adit::{
    identity::{BundleSet, Purpose, SvidError, verify_svid},
    tls::TlsError,
};
use pki_types::{CertificateDer, UnixTime};
use proptest::prelude::*;
use rcgen::{CertificateParams, PKCS_ECDSA_P256_SHA256};
use time::OffsetDateTime;

pub(crate) use crate::corpus::{Ca, bundle, ca_params, intermediate, now, root};
use crate::{
    corpus::{self, OWN, World},
    lint,
};

pub(crate) const ID: &str = "spiffe://td/ns/shop/sa/web";

pub(crate) fn leaf(
    ca: &Ca,
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateDer<'static> {
    corpus::leaf(ca, ID, &PKCS_ECDSA_P256_SHA256, change).chain.remove(0)
}

fn judge(chain: &[CertificateDer<'_>], bundles: &BundleSet) -> Result<String, SvidError> {
    let now = UnixTime::now();
    let verdict = |purpose| verify_svid(chain, bundles, now, purpose);
    let verdict = verdict(Purpose::Client).and_then(|_| verdict(Purpose::Server));
    lint::agrees_on_chain(chain, bundles, now, &verdict);
    verdict.map(|id| id.to_string())
}

/// However right it is: building paths from many certificates is work that a peer chooses.
#[test]
fn a_chain_of_eight_is_looked_at_and_a_longer_one_is_not() {
    let (top, id) = (root(), ID.to_owned());
    let between = intermediate(&top, |_| {});
    let bundles: BundleSet = [bundle("td", &[&top])].into_iter().collect();
    let chain = |n: usize| {
        let above = std::iter::repeat_n(between.der.clone(), n - 1);
        [leaf(&between, |_| {})].into_iter().chain(above).collect::<Vec<_>>()
    };
    assert_eq!(judge(&chain(8), &bundles), Ok(id));
    assert_eq!(judge(&chain(9), &bundles), Err(SvidError::ChainTooLong(9)));
}

/// The same list meets adit's live ends in `tests/netns/svid_corpus.rs`.
#[test]
fn the_whole_corpus_is_judged_each_with_its_own_rule() {
    let (world, id) = (World::new(), format!("spiffe://{OWN}/ns/shop/sa/web"));
    let bundles: BundleSet = world.bundles().into_iter().collect();
    for purpose in [Purpose::Client, Purpose::Server] {
        let fixtures = world.fixtures(&id, purpose);
        assert!(fixtures.len() > 400, "{}", fixtures.len());
        for fixture in fixtures.iter().filter(|f| !f.by_handshake_only) {
            let name = &fixture.name;
            let now = UnixTime::now();
            let verdict = |purpose| verify_svid(&fixture.shown.chain, &bundles, now, purpose);
            let both = verdict(Purpose::Client).and_then(|_| verdict(Purpose::Server));
            lint::agrees_on_chain(&fixture.shown.chain, &bundles, now, &both);
            let judged = verdict(purpose);
            let judged = judged.map(|id| id.to_string());
            let Some((reason, why)) = fixture.refused else {
                assert_eq!(judged, Ok(fixture.id.clone()), "{name}");
                continue;
            };
            let error = judged.expect_err(name);
            assert!(error.to_string().contains(why), "{name}: {error}");
            assert_eq!(TlsError::Svid(error).close_reason().as_str(), reason, "{name}");
        }
    }
}

#[test]
fn no_certificate_proves_nothing_and_an_old_root_is_trusted_beside_the_new() {
    let (own, other) = (root(), root());
    let set = |roots: &[&Ca]| [bundle("td", roots)].into_iter().collect::<BundleSet>();
    assert_eq!(judge(&[], &set(&[&own])), Err(SvidError::NoCertificate));
    let old = [leaf(&own, |_| ())];
    assert_eq!(judge(&old, &set(&[&other, &own])).as_deref(), Ok(ID));
    assert!(matches!(judge(&old, &set(&[&other])), Err(SvidError::Untrusted(_))));
}

/// No clock is forgiven; the first and the last second are whole (RFC 5280 §4.1.2.5).
#[test]
fn the_clock_that_counts_is_the_one_given_to_the_second() {
    let root = root();
    let middle = intermediate(&root, |p| {
        (p.not_before, p.not_after) = (at(1_701_999_990), at(1_702_003_000));
    });
    let bundles: BundleSet = [bundle("td", &[&root])].into_iter().collect();
    let valid = |p: &mut CertificateParams| {
        (p.not_before, p.not_after) = (at(1_702_000_000), at(1_702_003_600));
    };
    let direct = [leaf(&root, valid)];
    let longer_than_its_issuer = [leaf(&middle, valid), middle.der.clone()];
    let cases: [(&[CertificateDer<'_>], u64, &str); 8] = [
        (&direct, 1_701_999_999, "not valid yet: it becomes valid at 2023-12-08T01:46:40Z, in 1s"),
        (&direct, 1_702_000_000, ""),
        (&direct, 1_702_003_600, ""),
        (&direct, 1_702_003_601, "expired at 2023-12-08T02:46:40Z, 1s ago"),
        (&direct, 1_702_007_200, "expired at 2023-12-08T02:46:40Z, 1h ago"),
        (&longer_than_its_issuer, 1_702_003_000, ""),
        (&longer_than_its_issuer, 1_702_003_001, "CertExpired"),
        (&longer_than_its_issuer, 1_702_003_601, "expired at 2023-12-08T02:46:40Z, 1s ago"),
    ];
    for (chain, now, expected) in cases {
        let clock = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let said = match verify_svid(chain, &bundles, clock, Purpose::Client) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{now}: {said}");
    }
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

proptest! {
    #[test]
    fn mutated_certificates_never_panic_and_never_pass_as_others(at in 0usize..600, byte: u8) {
        let root = root();
        let bundles = [bundle("td", &[&root])].into_iter().collect();
        let mut der = leaf(&root, |_| ()).to_vec();
        let at = at % der.len();
        der[at] = byte;
        if let Ok(id) = judge(&[der.into()], &bundles) {
            prop_assert_eq!(id, ID);
        }
    }
}
