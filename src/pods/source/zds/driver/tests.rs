//! The source beside an istio-cni of ours, with pods that are whatever the test says of them.

#[path = "../../../../../tests/support/fake_cni.rs"]
mod fake_cni;
#[path = "../../../../../tests/support/wait.rs"]
mod wait;

use std::{fs::File, os::fd::AsFd as _, thread};

use fake_cni::{Conversation, FakeCni, add, del, keep, snapshot_sent};

use super::*;
use crate::lifecycle::Tasks;

/// A running source, and what hears of its events.
struct World {
    cni: Option<FakeCni>,
    events: mpsc::Receiver<Announcement>,
    state: watch::Receiver<ZdsState>,
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ztunnel.sock");
        let cni = Some(FakeCni::listen(&path));
        let (source, state) = ZdsSource::new(&path);
        let (to, events) = mpsc::channel(1);
        let tasks = Tasks::default();
        tasks.spawn(source.run(to));
        Self { cni, events, state, tasks, _dir: dir }
    }

    /// Answers each event with what `answer` says of it, while `script` is istio-cni's part; the
    /// events, in order.
    async fn plays<T: Send + 'static>(
        &mut self,
        script: impl FnOnce(&FakeCni) -> T + Send + 'static,
        mut answer: impl FnMut(&PodEvent) -> Option<Answer>,
    ) -> (T, Vec<PodEvent>) {
        let cni = self.cni.take().unwrap();
        let (told, mut done) = oneshot::channel();
        let played = thread::spawn(move || {
            let result = script(&cni);
            let _ = told.send(());
            (result, cni)
        });
        let (mut events, mut unanswered) = (Vec::new(), Vec::new());
        loop {
            tokio::select! {
                _ = &mut done => break,
                Some(Announcement { event, answer: to }) = self.events.recv() => {
                    match answer(&event) {
                        Some(answer) => drop(to.send(answer)),
                        None => unanswered.push(to),
                    }
                    events.push(event);
                }
            }
        }
        let (result, cni) = played.join().unwrap();
        self.cni = Some(cni);
        (result, events)
    }
}

fn well(_: &PodEvent) -> Option<Answer> {
    Some(Ok(()))
}

fn netns() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn web() -> Vec<u8> {
    add("u1", "shop", "web", "web")
}

/// The names of events, and of their pods.
fn words(events: &[PodEvent]) -> Vec<String> {
    let word = |event: &PodEvent| match event {
        PodEvent::SnapshotBegins => "begins".to_owned(),
        PodEvent::Upsert(facts) => format!("add {facts}"),
        PodEvent::Kept(uid) => format!("keep {uid}"),
        PodEvent::Removed(uid) => format!("del {uid}"),
        PodEvent::SnapshotEnds => "ends".to_owned(),
    };
    events.iter().map(word).collect()
}

#[tokio::test]
async fn a_snapshot_and_what_comes_after_it_is_told_and_acknowledged_one_by_one() {
    let mut world = World::new();
    let script = |cni: &FakeCni| {
        let said = cni.accept();
        let mut answers = vec![said.asks(&web(), &[netns().as_fd()]), said.asks(&keep("u2"), &[])];
        answers.push(said.asks(&snapshot_sent(), &[]));
        answers.push(said.asks(&del("u1"), &[]));
        assert!(said.hears_nothing());
        (answers, said)
    };
    let ((answers, said), events) = world.plays(script, well).await;
    assert_eq!(answers, ["", "", "", ""]);
    assert_eq!(words(&events), ["begins", "add shop/web", "keep pod/u2", "ends", "del pod/u1"]);
    assert_eq!(world.state.borrow().waits_for(), None);
    world.tasks.cut();
    world.tasks.ended().await;
    assert!(said.hears().is_empty(), "it is closed");
}

#[tokio::test]
async fn what_is_refused_is_acknowledged_with_why_and_the_next_is_heard() {
    let mut world = World::new();
    let script = |cni: &FakeCni| {
        let said = cni.accept();
        let file = File::open("/dev/null").unwrap();
        [
            said.asks(&web(), &[netns().as_fd()]),
            said.asks(&web(), &[file.as_fd()]),
            said.asks(&add("u/1", "shop", "web", "web"), &[netns().as_fd()]),
            said.asks(&snapshot_sent(), &[]),
        ]
    };
    let refuse = |event: &PodEvent| match event {
        PodEvent::Upsert(_) => Some(Err(Refused("port 15008 is taken".to_owned()))),
        _ => Some(Ok(())),
    };
    let ([refused, no_netns, no_name, ends], events) = world.plays(script, refuse).await;
    assert_eq!(refused, "port 15008 is taken");
    assert!(no_netns.contains("not one of a network namespace"), "{no_netns}");
    assert!(no_name.contains("not a valid Kubernetes name"), "{no_name}");
    assert_eq!((&*ends, events.len()), ("", 3));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_late_is_not_waited_for_and_who_hears_nothing_is_told_all_again() {
    let (to, mut events) = mpsc::channel(1);
    let begun = Instant::now();
    let event = || PodEvent::Removed("pod/u1".into());
    let Refused(late) = announce(&to, event()).await.ok().unwrap().unwrap_err();
    assert!(late.contains("longer than 4.5 s; adit continues with it"), "{late}");
    assert_eq!(begun.elapsed(), ANSWER_WITHIN);
    // The first one lies there still, and there is no room for another.
    assert!(matches!(announce(&to, event()).await, Err(End::Lost(why)) if why.contains("busy")));
    assert_eq!(events.recv().await.unwrap().event, event());
    drop(events);
    assert!(matches!(announce(&to, event()).await, Err(End::Unheard)));
}

/// What istio-cni says once it is connected, and the last answer.
type Case = fn(&Conversation) -> String;

/// Each with one acknowledgement that says why, and the end of that connection only.
#[tokio::test]
async fn what_is_not_of_the_protocol_ends_the_connection_and_another_one_begins() {
    let long = [&web()[..], &[0; 1100]].concat();
    let two: Case = |said| {
        let netns = netns();
        said.asks(&web(), &[netns.as_fd(), netns.as_fd()])
    };
    let cases: [(Case, &str); 4] = [
        (|said| said.asks(b"GET / HTTP/1.1", &[]), "cannot be read"),
        (two, "more than one file descriptor"),
        (|said| said.asks(&web(), &[]), "without the descriptor"),
        (
            |said| {
                let sent = snapshot_sent();
                assert_eq!(said.asks(&sent, &[]), "");
                said.asks(&sent, &[])
            },
            "second snapshot_sent",
        ),
    ];
    let mut world = World::new();
    for (case, why) in cases {
        let script = move |cni: &FakeCni| {
            let said = cni.accept();
            (case(&said), said.hears())
        };
        let ((answer, after), events) = world.plays(script, well).await;
        assert!(answer.contains(why), "{answer}, not {why}");
        assert!(after.is_empty(), "it is closed");
        assert!(!words(&events).iter().any(|word| word.starts_with("del")), "pods run on");
    }
    let script = move |cni: &FakeCni| cni.accept().asks(&long, &[]);
    let (answer, _) = world.plays(script, well).await;
    assert!(answer.contains("longer than 1024 bytes"), "{answer}");
}

#[tokio::test]
async fn what_is_waited_for_is_named_with_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ztunnel.sock");
    let (source, mut state) = ZdsSource::new(&path);
    let (to, mut events) = mpsc::channel(1);
    let tasks = Tasks::default();
    tasks.spawn(source.run(to));
    let waits =
        |path: &Path, why: &str| format!("waiting for istio-cni at {}: {why}", path.display());
    let wanted = waits(&path, "no such file");
    state.wait_for(|now| now.waits_for() == Some(wanted.clone())).await.unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let wanted = waits(&path, "no process is listening there");
    state.wait_for(|now| now.waits_for() == Some(wanted.clone())).await.unwrap();
    let cni = FakeCni::listen(&path);
    let accepted = thread::spawn(move || cni.accept());
    let begins = events.recv().await.unwrap();
    assert_eq!(begins.event, PodEvent::SnapshotBegins);
    begins.answer.send(Ok(())).unwrap();
    state.wait_for(|now| now.phase == Phase::Naming).await.unwrap();
    let naming = state.borrow().waits_for().unwrap();
    assert!(naming.contains("has not named all pods yet"), "{naming}");
    drop(accepted.join().unwrap());
    let wanted = waits(&path, "the other end has closed the connection");
    state.wait_for(|now| now.waits_for() == Some(wanted.clone())).await.unwrap();
    drop(tasks);
}

#[test]
fn it_is_tried_again_for_ever_and_at_least_every_15_s() {
    let all: Vec<_> = waits().take(200).collect();
    assert_eq!((all[0], all[199], all.len()), (FIRST, LAST, 200));
    assert!(all.is_sorted());
}
