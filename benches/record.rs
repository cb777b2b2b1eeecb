//! One TLS 1.3 record sealed by one end and opened by the other, by either implementation of
//! the AEADs.

mod cases;

use adit::tls::{
    Aead, Keys, TrafficSecret,
    record::{
        Implementation::{self, AwsLc, Ring},
        Opened, Records, prefer,
    },
};

fn records(aead: Aead) -> Records {
    let secret = || {
        let secret = TrafficSecret::new(aead, &vec![7; aead.secret_len()], 0);
        secret.expect("as long as it must be")
    };
    Records::new(Keys { send: secret(), receive: secret() }).expect("keys that fit")
}

fn pair(by: Implementation, aead: Aead, size: usize) -> Box<dyn FnMut()> {
    prefer(by);
    let (mut near, mut far) = (records(aead), records(aead));
    let plain = vec![b'a'; size];
    let mut wire = Vec::new();
    Box::new(move || {
        near.sealer.lend(Vec::new);
        near.sealer.append(&plain).expect("sealed");
        wire.clear();
        wire.extend_from_slice(near.pending().expect("sealed"));
        near.sealer.written(wire.len());
        match far.open(&mut wire) {
            Ok(Some((used, Opened::Data(range)))) => {
                assert!(used == wire.len() && range.len() == size)
            }
            _ => panic!("a record that was sealed"),
        }
    })
}

fn main() {
    cases::run(&[
        ("aes256_16384", 16_384, || pair(AwsLc, Aead::Aes256Gcm, 16_384)),
        ("aes256_100", 100, || pair(AwsLc, Aead::Aes256Gcm, 100)),
        ("aes128_16384", 16_384, || pair(AwsLc, Aead::Aes128Gcm, 16_384)),
        ("chacha20_16384", 16_384, || pair(AwsLc, Aead::ChaCha20Poly1305, 16_384)),
        ("ring_aes256_16384", 16_384, || pair(Ring, Aead::Aes256Gcm, 16_384)),
        ("ring_aes256_100", 100, || pair(Ring, Aead::Aes256Gcm, 100)),
        ("ring_aes128_16384", 16_384, || pair(Ring, Aead::Aes128Gcm, 16_384)),
        ("ring_chacha20_16384", 16_384, || pair(Ring, Aead::ChaCha20Poly1305, 16_384)),
    ]);
}
