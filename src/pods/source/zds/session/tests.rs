//! What istio-cni says, byte by byte as a real one has said it, and what it must not say.

use std::fs::File;

use proptest::prelude::*;

use super::*;
use crate::rpc::zds::{DelWorkload, KeepWorkload, SnapshotSent};

/// As a real istio-cni has sent it: pod `mesh/a-client` of the service account `client`.
const ADD: &str = "0a400a2463386536326231322d363261332d343433652d613565352d3730373838623431666431\
                   6312180a08612d636c69656e7412046d6573681a06636c69656e74";
const UID: &str = "c8e62b12-62a3-443e-a5e5-70788b41fd1c";
const DEL: &str =
    "1226122430646539346436362d643239612d343937352d613064302d396566616431383762313133";
const SNAPSHOT_SENT: &str = "1a00";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|two| u8::try_from(two[0] * 16 + two[1]).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn request(payload: Payload) -> Vec<u8> {
    WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}

fn keep(uid: &str) -> Vec<u8> {
    request(Payload::Keep(KeepWorkload { uid: uid.to_owned() }))
}

fn add(uid: &str, info: Option<(&str, &str, &str)>) -> Vec<u8> {
    let info = info.map(|(name, namespace, service_account)| WorkloadInfo {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
    });
    request(Payload::Add(AddWorkload { uid: uid.to_owned(), workload_info: info }))
}

fn netns() -> Option<OwnedFd> {
    Some(File::open("/proc/thread-self/ns/net").unwrap().into())
}

/// The session with its snapshot behind it.
fn live() -> Session {
    Session { has_snapshot: true, ..Session::default() }
}

#[test]
fn a_real_istio_cni_is_understood_and_answered_in_the_same_bytes() {
    assert_eq!(hex(&hello()), "0801");
    let mut session = Session::default();
    let PodEvent::Upsert(pod) = session.read(&bytes(ADD), netns()).unwrap() else { panic!() };
    assert_eq!(pod.to_string(), "mesh/a-client");
    assert_eq!((&*pod.uid, pod.pod_uid.as_deref()), (&*format!("pod/{UID}"), Some(UID)));
    assert_eq!(pod.member, Member::Sought { service_account: "client".into() });
    let here = Netns::current().unwrap();
    assert!(matches!(&pod.netns, PodNetns::Open(netns) if **netns == here));
    assert!(!session.has_snapshot());
    assert_eq!(session.read(&bytes(SNAPSHOT_SENT), None).unwrap(), PodEvent::SnapshotEnds);
    assert!(session.has_snapshot());
    let removed = PodEvent::Removed("pod/0de94d66-d29a-4975-a0d0-9efad187b113".into());
    assert_eq!(session.read(&bytes(DEL), None).unwrap(), removed);
    assert_eq!(hex(&acknowledgement(Ok(()))), "0a00");
    assert_eq!(hex(&acknowledgement(Err("boom"))), "0a060a04626f6f6d");
}

#[test]
fn pods_come_go_and_are_kept_before_the_snapshot_and_come_and_go_after_it() {
    let mut session = Session::default();
    let kept = session.read(&keep("u1"), None).unwrap();
    assert_eq!(kept, PodEvent::Kept("pod/u1".into()));
    for mut session in [session, live()] {
        let added = session.read(&add("u2", Some(("web", "shop", "web"))), netns());
        assert!(matches!(added, Ok(PodEvent::Upsert(_))), "also one that was added before");
        let del = request(Payload::Del(DelWorkload { uid: "u3".to_owned() }));
        let gone = session.read(&del, None).unwrap();
        assert_eq!(gone, PodEvent::Removed("pod/u3".into()), "also one that nobody knows");
    }
}

#[test]
fn what_the_protocol_has_no_place_for_ends_the_connection() {
    let web = Some(("web", "shop", "web"));
    let sent = request(Payload::SnapshotSent(SnapshotSent {}));
    for (session, message, fd, why) in [
        (live(), keep("u1"), None, "keep after"),
        (live(), sent.clone(), None, "second snapshot_sent"),
        (live(), sent, netns(), "not an add"),
        (Session::default(), keep("u1"), netns(), "not an add"),
        (live(), add("u1", web), None, "without the descriptor"),
        (live(), add("u1", None), netns(), "without workload_info"),
        (live(), Vec::new(), None, "not an add"),
        (live(), bytes("220100"), None, "not an add"),
        (live(), bytes("0a40ff"), None, "cannot be read"),
        (live(), b"GET / HTTP/1.1\r\n".to_vec(), None, "cannot be read"),
    ] {
        let mut session = session;
        let fault = session.read(&message, fd).unwrap_err();
        assert!(fault.to_string().contains(why), "{fault}, not {why}");
        assert!(fault.ends_session(), "{fault}");
    }
}

#[test]
fn a_pod_that_cannot_be_is_refused_alone() {
    let long = "x".repeat(254);
    let file = || Some(OwnedFd::from(File::open("/dev/null").unwrap()));
    for (uid, info, fd, why) in [
        ("", ("web", "shop", "web"), netns(), "uid"),
        ("u/../1", ("web", "shop", "web"), netns(), "uid"),
        ("u1", ("web\n", "shop", "web"), netns(), "name"),
        ("u1", ("web", "", "web"), netns(), "namespace"),
        ("u1", ("web", &long, "web"), netns(), "namespace"),
        ("u1", ("web", "shop", "a/b"), netns(), "service_account"),
        ("u1", ("web", "shop", "web"), file(), "not one of a network namespace"),
    ] {
        let fault = live().read(&add(uid, Some(info)), fd).unwrap_err();
        assert!(fault.to_string().contains(why), "{fault}, not {why}");
        assert!(!fault.ends_session(), "{fault}");
    }
}

proptest! {
    /// Whatever is sent, before and after the snapshot.
    #[test]
    fn nothing_that_is_sent_is_taken_without_a_name(
        message in proptest::collection::vec(any::<u8>(), 0..LONGEST),
        has_snapshot: bool,
    ) {
        match (Session { has_snapshot, ..Session::default() }).read(&message, None) {
            Ok(PodEvent::Kept(uid) | PodEvent::Removed(uid)) => assert!(uid.len() > 4, "{uid}"),
            Ok(event) => assert_eq!(event, PodEvent::SnapshotEnds),
            Err(fault) => assert!(acknowledgement(Err(&fault.to_string())).len() <= LONGEST),
        }
    }
}

#[test]
fn an_answer_always_fits_and_a_refusal_is_never_empty() {
    for why in ["é".repeat(4000), "x".repeat(LONGEST_ERROR + 1), String::new()] {
        let sent = acknowledgement(Err(&why));
        assert!(sent.len() <= LONGEST, "{}", sent.len());
        let read = WorkloadResponse::decode(&*sent).unwrap().payload;
        let Some(workload_response::Payload::Ack(ack)) = read else { panic!() };
        assert!(!ack.error.is_empty());
    }
}
