use std::io::{self, IoSliceMut};

use super::*;
use crate::tls::{Aead, TrafficSecret};
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// One direction from its beginning; both ends make the same of it.
fn direction(aead: Aead, of: u8, sequence: u64) -> TrafficSecret {
    TrafficSecret::new(aead, &vec![of; aead.secret_len()], sequence).unwrap()
}

fn pair(aead: Aead) -> (Records, Records) {
    let (one, other) = keys(aead);
    (Records::new(one).unwrap(), Records::new(other).unwrap())
}

/// What two ends would have agreed on.
pub(crate) fn keys(aead: Aead) -> (Keys, Keys) {
    let end =
        |sends| Keys { send: direction(aead, sends, 0), receive: direction(aead, sends ^ 1, 0) };
    (end(0x50), end(0x51))
}

/// Everything that waits, as written by a socket that takes all.
fn take(records: &mut Records) -> Vec<u8> {
    let bytes = records.pending().unwrap().to_vec();
    records.sealer.written(bytes.len());
    bytes
}

fn open_all(
    records: &mut Records,
    mut input: Vec<u8>,
) -> Result<(Vec<u8>, Vec<Opened>), RecordError> {
    let (mut plain, mut others) = (Vec::new(), Vec::new());
    while let Some((used, opened)) = records.open(&mut input)? {
        match opened {
            Opened::Data(range) => plain.extend_from_slice(&input[range]),
            other => others.push(other),
        }
        input.drain(..used);
    }
    assert!(input.is_empty(), "a record that is not whole");
    Ok((plain, others))
}

/// RFC 8448 §3: the records after the handshake, both directions, by either implementation.
#[test]
fn records_of_rfc_8448() {
    let secret =
        |text, sequence| TrafficSecret::new(Aead::Aes128Gcm, &hex(text), sequence).unwrap();
    let client = || secret("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5", 0);
    let server = || secret("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643", 1);
    let payload: Vec<u8> = (0..50).collect();
    let from_client = hex(
        "17030300 43a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a
         9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4",
    );
    let from_server = hex(
        "17030300 432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602d
         cb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d",
    );
    for (key, record, close) in [
        (
            &client as &dyn Fn() -> _,
            from_client,
            "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3",
        ),
        (&server, from_server, "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9"),
    ] {
        for by in Implementation::ALL {
            prefer(by);
            let mut sealer = Sealer::new(key()).unwrap();
            sealer.append(&payload).unwrap();
            assert_eq!(sealer.pending().unwrap(), record);
            sealer.written(record.len());
            sealer.close().unwrap();
            assert_eq!(sealer.pending().unwrap(), hex(close));

            let mut opener = Opener::new(key()).unwrap();
            let mut input = record.clone();
            let length = input.len();
            assert_eq!(opener.open(&mut input), Ok(Some((length, Opened::Data(5..55)))));
            assert_eq!(input[5..55], payload);
            let mut input = hex(close);
            assert_eq!(opener.open(&mut input), Ok(Some((24, Opened::Closed))));
        }
    }
}

#[test]
fn small_writes_share_a_record_and_large_ones_fill_them() {
    let (mut a, mut b) = pair(Aead::Aes256Gcm);
    a.sealer.append(b"one").unwrap();
    a.sealer.append(b"two").unwrap();
    let wire = take(&mut a);
    assert_eq!(wire.len(), HEADER + 6 + TAIL);
    assert_eq!(open_all(&mut b, wire).unwrap().0, b"onetwo");
    let large: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    a.sealer.append(&large).unwrap();
    let wire = take(&mut a);
    assert_eq!(wire.len(), large.len() + 7 * (HEADER + TAIL));
    assert_eq!(open_all(&mut b, wire).unwrap().0, large);
}

#[test]
fn nothing_follows_close_notify() {
    let (mut a, mut b) = pair(Aead::Aes128Gcm);
    a.sealer.append(b"last").unwrap();
    a.sealer.close().unwrap();
    a.sealer.append(b"too late").unwrap();
    let wire = take(&mut a);
    assert_eq!(wire.len(), 2 * (HEADER + TAIL) + 4 + 2);
    assert_eq!(open_all(&mut b, wire).unwrap(), (b"last".to_vec(), vec![Opened::Closed]));
}

#[test]
fn an_idle_connection_owns_no_buffer() {
    let (mut a, _) = pair(Aead::Aes128Gcm);
    a.sealer.lend(|| vec![0; 4096]);
    assert!(a.sealer.fill(100, |_| Err(io::ErrorKind::WouldBlock.into()), |_| [0; 9]).is_err());
    assert_eq!(a.sealer.give_back().map(|b| b.len() >= 4096), Some(true));
    a.sealer.append(b"x").unwrap();
    assert!(a.sealer.give_back().is_none(), "not while something waits");
    take(&mut a);
    assert!(a.sealer.give_back().is_some());
}

#[test]
fn key_updates_are_followed_and_answered_once() {
    for aead in [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305] {
        let (mut a, mut b) = pair(aead);
        for round in 0..10_u8 {
            a.sealer.append(&[round]).unwrap();
            a.update_key(true).unwrap();
            a.update_key(true).unwrap();
            a.sealer.append(&[round, round]).unwrap();
            let (plain, _) = open_all(&mut b, take(&mut a)).unwrap();
            assert_eq!(plain, [round; 3]);
            b.sealer.append(b"answer").unwrap();
            let (plain, others) = open_all(&mut a, take(&mut b)).unwrap();
            assert_eq!(plain, b"answer");
            assert_eq!(others, [Opened::KeyUpdate { requested: false }]);
        }
    }
}

/// RFC 8446 §4.6.3: an answer that is on its way already is none to a new request, even if
/// what follows it still waits.
#[test]
fn a_request_behind_a_written_answer_is_answered_again() {
    let (mut a, mut b) = pair(Aead::Aes128Gcm);
    let mut ask = |a: &mut Records| {
        b.update_key(true).unwrap();
        let (_, others) = open_all(a, take(&mut b)).unwrap();
        assert_eq!(others, [Opened::KeyUpdate { requested: true }]);
    };
    ask(&mut a);
    ask(&mut a);
    let answer = a.pending().unwrap().len();
    assert_eq!(answer, HEADER + 5 + TAIL, "one for both");
    a.sealer.append(&[7; 9]).unwrap();
    let mut wire = a.pending().unwrap().to_vec();
    a.sealer.written(answer + 1);
    wire.truncate(answer + 1);
    ask(&mut a);
    wire.extend(take(&mut a));
    let (plain, others) = open_all(&mut b, wire).unwrap();
    assert_eq!((plain.len(), others.len()), (9, 2));
}

#[test]
fn a_worn_key_is_replaced_by_itself() {
    let (mut a, mut b) = pair(Aead::Aes128Gcm);
    let worn = || direction(Aead::Aes128Gcm, 0x50, REKEY_AFTER - 1);
    a.sealer = Sealer::new(worn()).unwrap();
    b.opener = Opener::new(worn()).unwrap();
    a.sealer.append(b"last").unwrap();
    assert_eq!(open_all(&mut b, take(&mut a)).unwrap().1, []);
    a.sealer.append(b"next").unwrap();
    let (plain, others) = open_all(&mut b, take(&mut a)).unwrap();
    assert_eq!(others, [Opened::KeyUpdate { requested: false }]);
    assert_eq!(plain, b"next");
}

#[test]
fn messages_after_the_handshake_may_be_split_and_joined() {
    let (mut a, mut b) = pair(Aead::Aes128Gcm);
    let ticket = [&[4, 0, 0, 100][..], &[7; 100]].concat();
    for cut in [1, 3, 4, 50, 103] {
        for part in [&ticket[..cut], &ticket[cut..]] {
            a.sealer.append(part).unwrap();
            a.sealer.seal_as(HANDSHAKE);
        }
        a.sealer.append(b"data").unwrap();
        assert_eq!(open_all(&mut b, take(&mut a)).unwrap().0, b"data");
    }
    a.sealer.append(&[&ticket[..], &ticket[..]].concat()).unwrap();
    a.sealer.seal_as(HANDSHAKE);
    assert!(open_all(&mut b, take(&mut a)).is_ok());
}

#[test]
fn what_must_not_be_sent_is_refused() {
    use RecordError as E;
    let refused = |kind: u8, bodies: &[&[u8]]| {
        let (mut a, mut b) = pair(Aead::Aes128Gcm);
        for body in bodies {
            a.sealer.append(body).unwrap();
            a.sealer.seal_as(kind);
        }
        open_all(&mut b, take(&mut a)).unwrap_err()
    };
    assert!(matches!(refused(20, &[&[1]]), E::Unexpected(_)), "change_cipher_spec, protected");
    assert!(matches!(refused(99, &[b"x"]), E::Unexpected(_)), "unknown type");
    assert!(matches!(refused(HANDSHAKE, &[&[1, 0, 0, 0]]), E::Unexpected(_)), "ClientHello");
    assert!(matches!(refused(HANDSHAKE, &[&[24, 0, 0, 1, 2]]), E::Decode(_)), "KeyUpdate 2");
    assert!(matches!(refused(HANDSHAKE, &[&[24, 0, 0, 2, 0, 0]]), E::Decode(_)));
    let behind = [24, 0, 0, 1, 0, 4, 0];
    assert!(matches!(refused(HANDSHAKE, &[&behind]), E::Unexpected(_)), "data behind KeyUpdate");
    assert!(matches!(refused(HANDSHAKE, &[&[4, 1, 255, 255]]), E::Decode(_)), "too long a ticket");
    assert_eq!(refused(ALERT, &[&[2, 48]]), E::Alert(48));
    assert!(matches!(refused(ALERT, &[&[1, 0, 1, 0]]), E::Decode(_)), "two alerts in a record");
    assert!(matches!(
        refused(HANDSHAKE, &[&[24, 0, 0, 1, 0][..]; 40]),
        E::Unexpected(_) | E::BadMac
    ));

    let (_, mut b) = pair(Aead::Aes128Gcm);
    assert!(matches!(b.open(&mut [21, 3, 3, 0, 2, 2, 40]), Err(E::Unexpected(_))), "plaintext");
    assert_eq!(b.open(&mut [23, 3, 3, 0x41, 1]), Err(E::Overflow));
    assert_eq!(b.open(&mut [23, 3, 3, 0, 16]), Err(E::BadMac));
    assert_eq!(b.open(&mut [23, 3, 3, 0]), Ok(None), "not whole");
}

#[test]
fn empty_records_are_borne_in_moderation() {
    let (mut a, mut b) = pair(Aead::Aes128Gcm);
    let mut empty = |n| {
        for _ in 0..n {
            a.sealer.empty_record(APPLICATION_DATA);
        }
        take(&mut a)
    };
    assert!(open_all(&mut b, empty(32)).is_ok());
    assert!(matches!(open_all(&mut b, empty(1)), Err(RecordError::Unexpected(_))));
}

/// RFC 8446 §5.1: an empty fragment of a handshake or alert is none.
#[test]
fn empty_records_of_another_type_are_refused() {
    for kind in [HANDSHAKE, ALERT, 20, 24, 0] {
        let (mut a, mut b) = pair(Aead::Aes128Gcm);
        a.sealer.empty_record(kind);
        assert!(open_all(&mut b, take(&mut a)).is_err(), "type {kind}");
    }
}

/// Each kind of message that says nothing to an application, as a flood and between data.
#[test]
fn messages_to_tls_are_borne_in_moderation() {
    type Say = fn(&mut Records);
    let kinds: [(&str, Say); 4] = [
        ("KeyUpdate", |a| a.update_key(false).unwrap()),
        ("KeyUpdate that asks", |a| a.update_key(true).unwrap()),
        ("ticket", |a| {
            a.sealer.append(&[4, 0, 0, 1, 7]).unwrap();
            a.sealer.seal_as(HANDSHAKE);
        }),
        ("user_canceled", |a| {
            a.sealer.append(&[1, 90]).unwrap();
            a.sealer.seal_as(ALERT);
        }),
    ];
    for (name, say) in kinds {
        let (mut a, mut b) = pair(Aead::Aes128Gcm);
        let mut came = |a: &mut Records| open_all(&mut b, take(a));
        for _ in 0..8 {
            (0..10).for_each(|_| say(&mut a));
            a.sealer.append(b"x").unwrap();
            came(&mut a).unwrap_or_else(|e| panic!("{name} between data: {e}"));
        }
        let borne = (0..100).take_while(|_| {
            say(&mut a);
            came(&mut a).is_ok()
        });
        assert!(borne.count() <= 32, "{name} without data");
    }
}

/// What the kernel moves is seen by nobody here, and is data all the same: a connection that lives
/// long takes any number of messages, but none that begins and is not whole.
#[test]
fn data_that_passed_unseen_lies_between_messages() {
    let mut messages = Messages::default();
    for _ in 0..50 {
        for _ in 0..10 {
            messages.take(HANDSHAKE, &[24, 0, 0, 1, 0], 0).unwrap();
            messages.take(APPLICATION_DATA, &[], 0).unwrap();
        }
        messages.passed().unwrap();
    }
    messages.take(HANDSHAKE, &[24, 0, 0], 0).unwrap();
    assert!(matches!(messages.passed(), Err(RecordError::Unexpected(_))));
}

/// RFC 8446 §5.1, §5.2: padding included in what is sealed, and not in what it holds.
#[test]
fn one_byte_more_than_a_record_may_hold_is_too_long() {
    for (plain, padding, held) in [
        (MAX_PLAINTEXT, 0, Ok(MAX_PLAINTEXT)),
        (MAX_PLAINTEXT + 1, 0, Err(RecordError::Overflow)),
        (MAX_PLAINTEXT + 1, 20, Err(RecordError::Overflow)),
        (MAX_PLAINTEXT, 256 - TAIL, Ok(MAX_PLAINTEXT)),
        (MAX_PLAINTEXT, 257 - TAIL, Err(RecordError::Overflow)),
        (1, MAX_PLAINTEXT + 255 - TAIL, Ok(1)),
        (1, MAX_PLAINTEXT + 256 - TAIL, Err(RecordError::Overflow)),
        (0, 100, Ok(0)),
    ] {
        let secret = || direction(Aead::Aes128Gcm, 0x51, 0);
        // The type stands behind the plaintext, and zeros behind it up to the tag.
        let mut inner = vec![7; plain];
        inner.push(APPLICATION_DATA);
        inner.resize(plain + 1 + padding, 0);
        let last = inner.pop().unwrap();
        let length = u16::try_from(inner.len() + TAIL).unwrap();
        let [high, low] = length.to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        inner.extend([0; TAIL]);
        key::SequencedKey::new(secret()).unwrap().seal(header, &mut inner, last).unwrap();
        let mut record = [&header[..], &inner].concat();
        let opened = Opener::new(secret()).unwrap().open(&mut record);
        let opened = opened.map(|opened| match opened {
            Some((used, Opened::Data(at))) if used == record.len() => at.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(opened, held, "{plain} bytes and {padding} of padding");
    }
}

#[test]
fn a_damaged_lost_or_repeated_record_is_noticed() {
    for aead in [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305] {
        let (mut a, _) = pair(aead);
        a.sealer.append(b"first").unwrap();
        let first = take(&mut a);
        a.sealer.append(b"second").unwrap();
        let second = take(&mut a);
        for bit in 0..first.len() * 8 {
            let mut bad = first.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (_, mut b) = pair(aead);
            assert!(!matches!(b.open(&mut bad), Ok(Some(_))), "bit {bit}");
        }
        let (_, mut b) = pair(aead);
        assert_eq!(b.open(&mut second.clone()), Err(RecordError::BadMac), "lost");
        let (_, mut b) = pair(aead);
        assert!(b.open(&mut first.clone()).is_ok());
        assert_eq!(b.open(&mut first.clone()), Err(RecordError::BadMac), "repeated");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Fill(usize, usize),
    Update(bool),
    Write(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..40_000_usize).prop_map(Step::Append),
        (1..140_000_usize, 0..140_000_usize).prop_map(|(most, got)| Step::Fill(most, got)),
        any::<bool>().prop_map(Step::Update),
        (0..200_000_usize).prop_map(Step::Write),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever way plaintext is laid down and written out, the same bytes come out.
    #[test]
    fn bytes_survive_any_order_of_steps(steps in prop::collection::vec(step(), 1..60)) {
        let (mut a, mut b) = pair(Aead::Aes128Gcm);
        let (mut sent, mut wire, mut next) = (Vec::new(), Vec::new(), 0_u8);
        for step in steps {
            match step {
                Step::Append(n) => {
                    let bytes: Vec<u8> = (0..n).map(|i| next.wrapping_add(i as u8)).collect();
                    next = next.wrapping_add(91);
                    a.sealer.append(&bytes).unwrap();
                    sent.extend(bytes);
                }
                Step::Fill(most, got) => {
                    let mut came = Vec::new();
                    let read = |places: &mut [IoSliceMut<'_>]| {
                        let mut left = got;
                        for place in places {
                            let n = left.min(place.len());
                            place[..n].fill(next);
                            came.extend_from_slice(&place[..n]);
                            left -= n;
                        }
                        Ok(came.len())
                    };
                    let n = a.sealer.fill(most, read, |n| (n as u32).to_be_bytes()).unwrap();
                    prop_assert_eq!(n, came.len());
                    prop_assert!(n <= most);
                    if n > 0 {
                        sent.extend((n as u32).to_be_bytes());
                        sent.extend(came);
                    }
                    next = next.wrapping_add(17);
                }
                Step::Update(request) => a.update_key(request).unwrap(),
                Step::Write(n) => {
                    let n = n.min(a.pending().unwrap().len());
                    wire.extend_from_slice(&a.pending().unwrap()[..n]);
                    a.sealer.written(n);
                }
            }
        }
        wire.extend(take(&mut a));
        let (came, _) = open_all(&mut b, wire).unwrap();
        prop_assert!(came == sent);
    }

    /// No input makes it panic, and what is not whole is waited for.
    #[test]
    fn any_bytes_are_refused_or_waited_for(mut input in prop::collection::vec(any::<u8>(), 0..400)) {
        let (_, mut b) = pair(Aead::Aes128Gcm);
        prop_assert!(!matches!(b.open(&mut input), Ok(Some(_))));
    }
}
