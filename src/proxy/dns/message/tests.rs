//! Queries of a client that is the same library, and of one that sends anything.

use hickory_proto::op::{MessageType, Query};
use proptest::prelude::*;

use super::*;

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(0x1234, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

fn with_edns(mut query: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(version).set_dnssec_ok(true);
    query.set_edns(edns);
    query
}

fn question(query: &Message) -> Question {
    match read(&query.to_vec().unwrap()) {
        Received::Question(question) => *question,
        other => panic!("{other:?}"),
    }
}

fn addresses(count: u8) -> Vec<IpAddr> {
    (0..count).map(|n| IpAddr::from([10, 0, 0, n])).collect()
}

#[test]
fn what_is_no_query_is_refused_with_the_code_that_says_why() {
    let sound = query("a.example.", RecordType::A).to_vec().unwrap();
    let changed = |at: usize, to: u8| {
        let mut bytes = sound.clone();
        bytes[at] = to;
        bytes
    };
    for (bytes, code) in [
        (changed(2, 0x09 | 4 << 3), ResponseCode::NotImp),
        (changed(5, 0), ResponseCode::FormErr),
        (changed(5, 2), ResponseCode::FormErr),
        (changed(6, 0xff), ResponseCode::FormErr),
        (changed(12, 0xff), ResponseCode::FormErr),
        (sound[..sound.len() - 1].to_vec(), ResponseCode::FormErr),
        (with_edns(query("a.", RecordType::A), 1232, 1).to_vec().unwrap(), ResponseCode::BADVERS),
    ] {
        let Received::Refused(reply) = read(&bytes) else { panic!("{bytes:?}") };
        let reply = Message::from_vec(&reply).unwrap();
        // 16 has two names.
        let number = u16::from(reply.metadata.response_code);
        assert_eq!((reply.metadata.id, number), (0x1234, u16::from(code)));
        assert!(reply.metadata.message_type == MessageType::Response && reply.answers.is_empty());
    }
    for nobodys in [&sound[..11], &[], &changed(2, 0x81)] {
        assert!(matches!(read(nobodys), Received::Nothing), "{nobodys:?}");
    }
}

#[test]
fn a_name_of_the_mesh_is_answered_with_authority_under_the_name_as_it_was_asked() {
    let question = question(&with_edns(query("Db.Shop.", RecordType::A), 100, 0));
    assert_eq!((question.name(), question.wants_ipv6()), ("db.shop", Some(false)));
    let reply = Message::from_vec(&question.answered(&addresses(2), None, 512)).unwrap();
    let head = &reply.metadata;
    assert!(head.authoritative && head.recursion_available && head.recursion_desired);
    assert_eq!((head.id, head.response_code), (0x1234, ResponseCode::NoError));
    let edns = reply.edns.unwrap();
    assert_eq!((edns.max_payload(), edns.flags().dnssec_ok), (512, true));
    for record in &reply.answers {
        assert_eq!((record.name.to_ascii(), record.ttl), ("Db.Shop.".to_owned(), 30));
    }
    assert_eq!(reply.answers.len(), 2);
    let none = Message::from_vec(&question.answered(&[], None, 512)).unwrap();
    assert!(none.answers.is_empty() && none.metadata.authoritative);
}

#[test]
fn a_name_with_a_search_domain_is_an_alias_of_what_is_left_without_it() {
    let question = question(&query("www.example.com.shop.svc.cluster.local.", RecordType::A));
    let reply = Message::from_vec(&question.answered(&addresses(1), Some(3), 512)).unwrap();
    let said: Vec<_> = reply.answers.iter().map(|r| (r.name.to_ascii(), r.record_type())).collect();
    let query = "www.example.com.shop.svc.cluster.local.".to_owned();
    assert_eq!(said, [(query, RecordType::CNAME), ("www.example.com.".into(), RecordType::A)]);
}

#[test]
fn what_does_not_fit_is_left_out_and_that_is_said() {
    for (query, limit) in [
        (query("db.", RecordType::A), 512),
        (with_edns(query("db.", RecordType::A), 1232, 0), 1232),
    ] {
        let question = question(&query);
        assert_eq!(question.datagram(), limit);
        let bytes = question.answered(&addresses(250), None, limit);
        let reply = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= limit && reply.metadata.truncation && !reply.answers.is_empty());
        assert_eq!(reply.edns.is_some(), query.edns.is_some());
        let whole = Message::from_vec(&question.answered(&addresses(250), None, 65_535)).unwrap();
        assert!(whole.answers.len() == 250 && !whole.metadata.truncation);
    }
}

#[test]
fn what_an_upstream_says_is_passed_on_whole_under_the_number_of_the_client() {
    let question = question(&query("gone.example.", RecordType::MX));
    assert_eq!(question.wants_ipv6(), None);
    let mut theirs = Message::response(9, OpCode::Query);
    theirs.metadata.authoritative = true;
    theirs.metadata.response_code = ResponseCode::NXDomain;
    theirs.add_query(Query::query(Name::from_ascii("gone.example.").unwrap(), RecordType::MX));
    let name = Name::from_ascii("example.").unwrap();
    let soa = rdata::SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, 5);
    theirs.add_authority(Record::from_rdata(name, 60, RData::SOA(soa)));
    let sent = theirs.to_vec().unwrap();
    let bytes = question.forwarded(sent.clone(), 512);
    assert_eq!(&bytes[4..], &sent[4..], "nothing else is touched");
    let reply = Message::from_vec(&bytes).unwrap();
    let head = &reply.metadata;
    assert_eq!((head.id, head.response_code), (0x1234, ResponseCode::NXDomain));
    assert!(!head.authoritative && head.recursion_available);
    let short = question.forwarded(sent.clone(), 40);
    let reply = Message::from_vec(&short).unwrap();
    assert!(short.len() <= 40 && reply.metadata.truncation && reply.authorities.is_empty());
}

#[test]
fn a_question_is_asked_again_under_another_number() {
    let asked = with_edns(query("Db.Example.", RecordType::AAAA), 4096, 0);
    let again = Message::from_vec(&question(&asked).with_id(7).unwrap()).unwrap();
    assert_eq!(again.metadata.id, 7);
    assert_eq!((again.queries, again.edns), (asked.queries, asked.edns));
}

proptest! {
    #[test]
    fn whatever_is_sent_is_answered_within_bounds_or_not_at_all(
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        at in any::<prop::sample::Index>(),
    ) {
        let mut damaged = with_edns(query("db.shop.", RecordType::A), 600, 0).to_vec().unwrap();
        let at = at.index(damaged.len());
        damaged.splice(at.., bytes.iter().copied());
        for received in [read(&bytes), read(&damaged)] {
            match received {
                Received::Nothing => {}
                Received::Refused(reply) => {
                    prop_assert!(reply.len() <= 512 && reply[2] & 0x80 != 0);
                }
                Received::Question(question) => {
                    let id = question.with_id(1);
                    prop_assert!(id.is_err() || id.is_ok_and(|bytes| bytes[..2] == [0, 1]));
                    let limit = question.datagram();
                    for reply in [
                        question.failed(ResponseCode::ServFail, limit),
                        question.answered(&addresses(200), Some(1), limit),
                        question.forwarded(bytes.clone(), limit),
                    ] {
                        prop_assert!(reply.len() <= limit);
                    }
                }
            }
        }
    }
}
