//! What counts as the answer to a query.

use super::*;

/// Number 0x0102, `a.B`, type A, class IN.
const QUERY: &[u8] = b"\x01\x02\x01\0\0\x01\0\0\0\0\0\0\x01a\x01B\0\0\x01\0\x01";

fn changed(at: usize, to: u8) -> Vec<u8> {
    let mut answer = QUERY.to_vec();
    answer[2] |= 0x80;
    answer[at] = to;
    answer
}

#[test]
fn only_an_answer_to_this_very_query_counts() {
    for (answer, counts) in [
        (changed(0, 1), true),
        (changed(0, 9), false),
        (changed(1, 9), false),
        (changed(2, 0x01), false),
        (changed(2, 0x91), false),
        (changed(13, b'A'), true),
        (changed(13, b'c'), false),
        (changed(18, 28), false),
        (changed(5, 2), false),
        (changed(5, 0), false),
        ([&changed(5, 0)[..3], &[0x82], &[0; 8]].concat(), true),
        (changed(0, 1)[..20].to_vec(), false),
        (changed(0, 1)[..11].to_vec(), false),
        (vec![], false),
    ] {
        assert_eq!(answers(&answer, QUERY), counts, "{answer:?}");
    }
    assert!(!answers(&changed(0, 1), &QUERY[..12]), "a query without a question has no answer");
    assert_eq!(question(b"\0\0\0\0\0\0\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01"), None);
}

#[test]
fn a_server_that_fails_is_told_from_one_that_knows() {
    let codes: Vec<u8> = (0..=10).filter(|code| has_failed(&[0, 0, 0x80, 0x80 | code])).collect();
    assert_eq!(codes, [2, 4, 5]);
    assert!(!has_failed(&[]));
}

#[test]
fn a_message_has_a_length_that_can_be_said() {
    assert_eq!(framed(&[7, 8]).unwrap(), [0, 2, 7, 8]);
    assert!(framed(&vec![0; 65_536]).is_err());
}
