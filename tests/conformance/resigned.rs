//! Leaves that an authority did sign, whatever bytes are in them, for ADIT_FUZZ_SECONDS (2): the
//! verifier and the linter agree about each, so that neither knows a rule that the other lacks.

use std::time::{Duration, Instant};

use adit::identity::{BundleSet, Purpose, verify_svid};
use pki_types::{CertificateDer, UnixTime};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rcgen::{BasicConstraints, IsCa, Issuer, KeyPair, SigningKey};
use x509_parser::asn1_rs::{Any, FromDer, ToDer};

use crate::{
    lint,
    x509_svid::{Ca, bundle, ca_params, leaf},
};

/// The certificate with other contents, signed again.
fn signed(tbs: &[u8], algorithm: &[u8], key: &KeyPair) -> CertificateDer<'static> {
    let mut signature = vec![0];
    signature.extend(key.sign(tbs).unwrap());
    let parts = [tbs, algorithm, &tlv(3, &signature)].concat();
    tlv(0x30, &parts).into()
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    match value.len() {
        0..=127 => [&[tag, length[1]], value].concat(),
        128..=255 => [&[tag, 0x81, length[1]], value].concat(),
        _ => [&[tag, 0x82, length[0], length[1]], value].concat(),
    }
}

/// Contents and algorithm, each with its head.
fn parts(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (_, whole) = Any::from_der(der).unwrap();
    let (rest, tbs) = Any::from_der(whole.data).unwrap();
    let (_, algorithm) = Any::from_der(rest).unwrap();
    (tbs.to_der_vec().unwrap(), algorithm.to_der_vec().unwrap())
}

#[test]
fn verifier_and_linter_agree_on_whatever_an_authority_signs() {
    let key = KeyPair::generate().unwrap();
    let params = ca_params(BasicConstraints::Unconstrained);
    let der = params.self_signed(&key).unwrap().der().clone();
    let copy = KeyPair::from_pem(&key.serialize_pem()).unwrap();
    let root = Ca { der, issuer: Issuer::new(params, copy) };
    let bundles: BundleSet = [bundle("td", &[&root])].into_iter().collect();
    let kinds = [
        leaf(&root, |_| ()),
        leaf(&root, |p| p.extended_key_usages.clear()),
        leaf(&root, |p| p.is_ca = IsCa::NoCa),
    ];
    let kinds = kinds.map(|der| parts(&der));
    let seconds = std::env::var("ADIT_FUZZ_SECONDS").map_or(2, |s| s.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut seed, mut accepted) = (0, 0);
    while Instant::now() < until {
        seed += 1;
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut tbs, algorithm) = kinds[rng.random_range(0..kinds.len())].clone();
        for _ in 0..rng.random_range(0..3) {
            let at = rng.random_range(4..tbs.len());
            tbs[at] =
                if rng.random() { rng.random() } else { tbs[at] ^ 1 << rng.random_range(0..8) };
        }
        let chain = [signed(&tbs, &algorithm, &key)];
        let now = UnixTime::now();
        let verdict = |purpose| verify_svid(&chain, &bundles, now, purpose);
        let both = verdict(Purpose::Client).and_then(|_| verdict(Purpose::Server));
        accepted += u32::from(both.is_ok());
        let agree = || lint::agrees_on_chain(&chain, &bundles, now, &both);
        let agreed = std::panic::catch_unwind(agree);
        assert!(agreed.is_ok(), "seed {seed}: {both:?} {:02x?}", chain[0].as_ref());
    }
    assert!(seed > 50 && accepted > 10, "{accepted} of {seed} accepted");
}
