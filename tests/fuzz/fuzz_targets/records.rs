//! TLS records: any bytes are refused or waited for; a stream that was sound until someone
//! changed it yields nothing but a true beginning of what was sent.
#![no_main]

use adit::tls::{Aead, Keys, TrafficSecret, record::{Opened, RecordError, Records}};
use libfuzzer_sys::fuzz_target;

fn records(aead: Aead) -> Records {
    let secret = || {
        let secret = TrafficSecret::new(aead, &vec![7; aead.secret_len()], 0);
        secret.expect("as long as it must be")
    };
    Records::new(Keys { send: secret(), receive: secret() }).expect("keys that fit")
}

fn open_all(records: &mut Records, mut input: &mut [u8]) -> (Vec<u8>, Option<RecordError>) {
    let mut plain = Vec::new();
    loop {
        match records.open(input) {
            Ok(None) => return (plain, None),
            Err(error) => return (plain, Some(error)),
            Ok(Some((used, opened))) => {
                if let Opened::Data(range) = opened {
                    plain.extend_from_slice(&input[range]);
                }
                input = &mut input[used..];
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [choice, place, flip, rest @ ..] = data else { return };
    let aead = [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305][usize::from(choice % 3)];
    let (plain, error) = open_all(&mut records(aead), &mut rest.to_vec());
    assert!(plain.is_empty(), "forged");
    // Nobody but the peer says alert; what is wrong with a record has an alert of its own.
    assert!(error.is_none_or(|e| e.alert().is_some()));

    let mut sender = records(aead);
    for (n, part) in rest.chunks(40).enumerate() {
        sender.sealer.append(part).expect("sealed");
        match n % 4 {
            1 => sender.update_key(part[0] & 1 == 1).expect("next key"),
            2 => _ = sender.pending().expect("sealed"),
            _ => {}
        }
    }
    let mut wire = sender.pending().expect("sealed").to_vec();
    let (plain, error) = open_all(&mut records(aead), &mut wire.clone());
    assert!(plain == rest && error.is_none(), "sound");
    if let Some(at) = (usize::from(*place) * 251).checked_rem(wire.len()).filter(|_| *flip != 0) {
        wire[at] ^= flip;
        let (plain, _) = open_all(&mut records(aead), &mut wire);
        assert!(rest.starts_with(&plain), "changed");
    }
});
