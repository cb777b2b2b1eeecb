//! Another adit, another istio-cni, while pods call each other.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
};

use nix::sys::signal::Signal;

use crate::{
    harness::Test,
    wait::{LIMIT, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("rollouts::a_successor_beside_the_one_that_ends_loses_no_call", replaced),
    ("rollouts::who_waits_to_be_accepted_when_one_ends_is_served", queued),
    ("rollouts::a_node_that_was_killed_carries_its_pods_again", killed),
    ("rollouts::calls_go_on_without_istio_cni_and_the_next_one_is_heard", cni),
];

fn replaced() {
    let mut world = World::running();
    let (made, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let World { first, istiod, lab, .. } = &mut world;
    let lab = &*lab;
    let call = |pod: &'static str, to: &'static str| {
        let (made, over) = (&made, &over);
        move || {
            let mut failed = Vec::new();
            while !over.load(SeqCst) {
                failed.extend(lab.ask(pod, to).err().map(|why| format!("{pod} to {to}: {why}")));
                made.fetch_add(1, SeqCst);
            }
            failed
        }
    };
    thread::scope(|scope| {
        let calls = [("web", "10.96.0.2:80"), ("web", "10.96.0.3:80"), ("far", "10.96.0.1:80")];
        let callers = calls.map(|(pod, to)| scope.spawn(call(pod, to)));
        let more = |what: &str| {
            let until = made.load(SeqCst) + 20;
            wait_until(what, LIMIT, || made.load(SeqCst) >= until);
        };
        more("calls before");
        let mut next = first.successor("n3", "10.77.0.203");
        next.launch(lab);
        istiod.meets(1);
        first.announces_to(&mut next, &["web", "db"]);
        next.says_of_readiness(lab, "200 OK");
        more("calls with both");
        first.adit().signal(Signal::SIGTERM);
        assert_eq!(first.ends().code(), Some(0));
        more("calls after");
        over.store(true, SeqCst);
        let failed: Vec<String> = callers.into_iter().flat_map(|c| c.join().unwrap()).collect();
        assert_eq!(failed, [""; 0], "of {} calls", made.load(SeqCst));
    });
}

/// Connections that the kernel has established for a process that had no time to accept them.
fn queued() {
    const CALLS: usize = 64;
    let mut world = World::running();
    let World { first, istiod, lab, .. } = &mut world;
    let mut next = first.successor("n3", "10.77.0.203");
    next.launch(lab);
    istiod.meets(1);
    first.announces_to(&mut next, &["web", "db"]);
    next.says_of_readiness(lab, "200 OK");
    first.adit().signal(Signal::SIGSTOP);
    // The kernel spreads them over the two processes, also where one of them does not run.
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let mut call = lab.connect("web", "10.96.0.3:80").unwrap();
            call.write_all(b"hello\n").unwrap();
            call.shutdown(Shutdown::Write).unwrap();
            call
        })
        .collect();
    first.adit().signal(Signal::SIGTERM);
    first.adit().signal(Signal::SIGCONT);
    let answers = calls.into_iter().map(|mut call| {
        let mut answer = String::new();
        call.read_to_string(&mut answer).map(|_| answer)
    });
    let lost: Vec<_> =
        answers.filter(|a| !a.as_ref().is_ok_and(|a| a.ends_with("hello\n"))).collect();
    assert!(lost.is_empty(), "{} of {CALLS}: {:?}", lost.len(), lost[0]);
    assert_eq!(first.ends().code(), Some(0));
}

fn killed() {
    let mut world = World::running();
    world.answered("web", "10.96.0.3:80");
    let World { second, istiod, lab, .. } = &mut world;
    second.kill();
    assert!(lab.ask("web", "10.96.0.3:80").is_err());
    second.launch(lab);
    istiod.meets(1);
    second.announces(&["far"]);
    world.answered("web", "10.96.0.3:80");
    world.answered("far", "10.96.0.1:80");
    world.second.says_of_readiness(&world.lab, "200 OK");
}

fn cni() {
    let mut world = World::running();
    world.first.ends_cni();
    world.first.says_of_readiness(&world.lab, "HTTP/1.1 500");
    world.answered("web", "10.96.0.2:80");
    world.answered("far", "10.96.0.1:80");
    let World { first, lab, .. } = &mut world;
    first.starts_cni(lab);
    first.announces(&["web"]);
    first.says_of_readiness(lab, "200 OK");
    world.answered("far", "10.96.0.1:80");
    let lab = &world.lab;
    wait_until("who was not named is let go", LIMIT, || lab.connect("db", "[::1]:15008").is_err());
}
