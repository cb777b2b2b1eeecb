//! One TLS 1.3 record sealed by one end and opened by the other, by either implementation of
//! the AEADs.

mod cases;

use adit::tls::{
    Aead, KeySchedule, Keys, TlsError, TrafficSecrets,
    record::{
        Implementation::{self, AwsLc, Ring},
        Opened, Records, prefer,
    },
};

struct NoMore;

impl KeySchedule for NoMore {
    fn next_sending(&mut self) -> Result<TrafficSecrets, TlsError> {
        Err(TlsError::Other("too many records for a bench".into()))
    }

    fn next_receiving(&mut self) -> Result<TrafficSecrets, TlsError> {
        self.next_sending()
    }
}

fn records(aead: Aead) -> Records {
    let length = if aead == Aead::Aes128Gcm { 16 } else { 32 };
    let secrets = || TrafficSecrets { aead, key: vec![7; length].into(), iv: [7; 12], sequence: 0 };
    let keys = Keys { send: secrets(), receive: secrets(), schedule: Box::new(NoMore) };
    Records::new(keys).expect("keys that fit")
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
