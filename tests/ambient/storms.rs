//! Ten thousand changes of the mesh while pods call each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use adit::rpc::discovery::Resource;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::Value;

use crate::{
    fake_istiod::{ADDRESS, AUTHORIZATION},
    harness::Test,
    resources::{allow, uid, workload},
    wait::{LIMIT, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[(
    "storms::ten_thousand_changes_beside_a_stream_of_requests_are_followed_and_lose_none",
    storm,
)];

const CHANGES: usize = 10_000;
/// So many come and go.
const PODS: usize = 400;
const POLICIES: usize = 40;
/// At most so many changes are in one response.
const BATCH: usize = 20;
/// By so much a node's memory may grow from the first half of the storm to its end, KiB.
const GROWTH: usize = 2 << 10;
/// Between two requests, and two rounds of calls anew, which leave the nodes some of the machine.
const PAUSE: Duration = Duration::from_millis(2);

fn storm() {
    let seed: u64 = rand::random();
    println!("the storm is that of seed {seed}");
    let (mut storm, mut world) = (Storm::new(seed), World::running());
    let (calls, over) = (Calls::default(), AtomicBool::new(false));
    let World { first, second, istiod, lab } = &mut world;
    let lab = &*lab;
    let (calls, over) = (&calls, &over);
    let failed: Vec<String> = thread::scope(|scope| {
        let stream = scope.spawn(move || {
            let mut conn = lab.connect("web", "10.96.0.3:80").expect("the stream begins");
            let mut failed = exchange(&mut conn, "", "caller 10.77.0.1\n").err();
            while failed.is_none() && !over.load(SeqCst) {
                let asked = format!("request {}\n", calls.of_stream.fetch_add(1, SeqCst));
                failed = exchange(&mut conn, &asked, &asked).err();
                thread::sleep(PAUSE);
            }
            failed.map(|why| format!("the stream: {why}")).into_iter().collect::<Vec<_>>()
        });
        let anew = scope.spawn(move || {
            let mut failed = Vec::new();
            while !over.load(SeqCst) {
                for (pod, to) in [("web", "10.96.0.3:80"), ("far", "10.96.0.1:80")] {
                    failed.extend(lab.ask(pod, to).err().map(|why| format!("{pod}: {why}")));
                    calls.anew.fetch_add(1, SeqCst);
                }
                thread::sleep(PAUSE);
            }
            failed
        });
        let _ends = Ends(over);
        let mut halfway = None;
        while storm.made < CHANGES {
            let (kind, upserted, removed) = storm.next();
            istiod.changes(kind, upserted, &removed);
            if storm.made > CHANGES / 2 {
                halfway.get_or_insert_with(|| [&*first, &*second].map(|n| n.adit().resident()));
            }
        }
        let at_the_end = [&*first, &*second].map(|node| node.adit().resident());
        calls.go_on(&stream);
        over.store(true, SeqCst);
        let halfway = halfway.expect("it has been half");
        println!("memory of {halfway:?} and then {at_the_end:?} KiB, {calls:?}");
        for (before, now) in halfway.iter().zip(at_the_end) {
            assert!(now <= before + GROWTH, "memory grew from {before} to {now} KiB");
        }
        [stream.join().unwrap(), anew.join().unwrap()].concat()
    });
    assert_eq!(failed, [""; 0], "of {calls:?}");
    for node in [&world.first, &world.second] {
        storm.is_known_to(&node.dump(&world.lab));
    }
    world.answered("web", "10.96.0.3:80");
}

/// Says so when it is dropped: also callers of a scenario that has failed come to their end.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// How many were made.
#[derive(Debug, Default)]
struct Calls {
    of_stream: AtomicUsize,
    anew: AtomicUsize,
}

impl Calls {
    /// Returns once there were some more of each, or the stream has failed.
    fn go_on<T>(&self, stream: &ScopedJoinHandle<'_, T>) {
        for made in [&self.of_stream, &self.anew] {
            let until = made.load(SeqCst) + 10;
            let more = || made.load(SeqCst) >= until || stream.is_finished();
            wait_until("calls go on", LIMIT, more);
        }
    }
}

/// Says `asked`, and hears just what is expected.
fn exchange(conn: &mut TcpStream, asked: &str, expected: &str) -> io::Result<()> {
    conn.write_all(asked.as_bytes())?;
    let (mut heard, begun) = (vec![0; expected.len()], Instant::now());
    let mut left = &mut heard[..];
    while !left.is_empty() {
        match conn.read(left) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => left = &mut left[read..],
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                // What sockmap makes of a blocking read now and then.
                ErrorKind::WouldBlock if begun.elapsed() < LIMIT => {}
                _ => return Err(error),
            },
        }
    }
    match heard == expected.as_bytes() {
        true => Ok(()),
        false => {
            let heard = String::from_utf8_lossy(&heard);
            Err(io::Error::other(format!("{heard:?} in place of {expected:?}")))
        }
    }
}

/// What the mesh is, beside the pods of the world.
struct Storm {
    random: StdRng,
    made: usize,
    /// Address and policies of each pod.
    pods: BTreeMap<String, (String, BTreeSet<String>)>,
    /// Whom each policy lets through, `web` among them.
    policies: BTreeMap<String, BTreeSet<String>>,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let far = ("10.77.0.3".to_owned(), BTreeSet::new());
        let pods = [("far".to_owned(), far)].into();
        Self { random: StdRng::seed_from_u64(seed), made: 0, pods, policies: BTreeMap::new() }
    }

    /// The next changes, all of one type, to be told in one response: what comes or is not as it
    /// was, and the names of what goes.
    fn next(&mut self) -> (&'static str, Vec<Resource>, Vec<String>) {
        let (mut upserted, mut removed) = (BTreeMap::new(), BTreeSet::new());
        let of_pods = self.random.random_ratio(3, 4);
        for _ in 0..self.random.random_range(1..=BATCH) {
            let change = if of_pods { self.change_pod() } else { self.change_policy() };
            let Some((name, resource)) = change else { continue };
            self.made += 1;
            match resource {
                Some(resource) => {
                    removed.remove(&name);
                    upserted.insert(name, resource);
                }
                None => {
                    upserted.remove(&name);
                    removed.insert(name);
                }
            }
        }
        let kind = if of_pods { ADDRESS } else { AUTHORIZATION };
        (kind, upserted.into_values().collect(), removed.into_iter().collect())
    }

    /// A pod is new, moves, goes, or is selected by other policies. `far` stays where it is.
    fn change_pod(&mut self) -> Option<(String, Option<Resource>)> {
        let n = self.random.random_range(0..=PODS);
        let pod = if n == PODS { "far".to_owned() } else { format!("storm-{n}") };
        let there = self.pods.get(&pod).cloned();
        let (address, policies) = match (there, self.random.random_range(0..4)) {
            (Some(_), 0) if pod != "far" => {
                self.pods.remove(&pod);
                return Some((uid(&pod), None));
            }
            (Some((_, policies)), 1) if pod != "far" => (self.address(n), policies),
            (Some((address, _)), _) => (address, self.some_policies()),
            (None, _) => (self.address(n), self.some_policies()),
        };
        let node = if pod == "far" { "n2" } else { "n9" };
        let named: Vec<&str> = policies.iter().map(String::as_str).collect();
        let resource = workload(&pod, node, &address, &named);
        self.pods.insert(pod.clone(), (address, policies));
        Some((uid(&pod), Some(resource)))
    }

    /// One that no other pod has.
    fn address(&mut self, n: usize) -> String {
        let net = self.random.random_range(80..100);
        format!("10.{net}.{}.{}", n / 250, n % 250 + 1)
    }

    /// Of those that there are: what is not there closes the pod that names it.
    fn some_policies(&mut self) -> BTreeSet<String> {
        let all: Vec<&String> = self.policies.keys().collect();
        let count = self.random.random_range(0..4);
        all.choose_multiple(&mut self.random, count).map(|name| (*name).clone()).collect()
    }

    /// A policy is new, lets others through, or goes, if it is none of `far`'s.
    fn change_policy(&mut self) -> Option<(String, Option<Resource>)> {
        let policy = format!("storm-{}", self.random.random_range(0..POLICIES));
        let name = format!("shop/{policy}");
        let is_of_far = self.pods["far"].1.contains(&policy);
        if self.policies.contains_key(&policy) && self.random.random_ratio(1, 4) {
            if is_of_far {
                return None;
            }
            self.policies.remove(&policy);
            return Some((name, None));
        }
        let other = format!("account-{}", self.random.random_range(0..100));
        let accounts = BTreeSet::from(["web".to_owned(), other]);
        let named: Vec<&str> = accounts.iter().map(String::as_str).collect();
        let resource = allow(&policy, &named);
        self.policies.insert(policy, accounts);
        Some((name, Some(resource)))
    }

    /// Whether a node's dump has just this, and the pods of the world.
    #[track_caller]
    fn is_known_to(&self, dump: &Value) {
        let all = |of: &str| dump[of].as_array().unwrap().clone();
        let texts = |of: &Value| -> BTreeSet<String> {
            let texts = of.as_array().into_iter().flatten();
            texts.map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        let known: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> = all("workloads")
            .iter()
            .map(|pod| {
                let name = pod["name"].as_str().unwrap().to_owned();
                (name, (texts(&pod["workloadIps"]), texts(&pod["authorizationPolicies"])))
            })
            .filter(|(name, _)| !["web", "db"].contains(&&**name))
            .collect();
        let told = self.pods.iter().map(|(name, (address, policies))| {
            let policies = policies.iter().map(|policy| format!("shop/{policy}")).collect();
            (name.clone(), ([address.clone()].into(), policies))
        });
        assert_eq!(known, told.collect(), "pods");
        let known: BTreeMap<String, BTreeSet<String>> = all("policies")
            .iter()
            .map(|policy| {
                let principals = policy["rules"][0][0][0]["principals"].as_array().unwrap();
                let accounts = principals.iter().map(|one| one["Exact"].as_str().unwrap());
                let accounts = accounts.map(|id| id.rsplit('/').next().unwrap().to_owned());
                (policy["name"].as_str().unwrap().to_owned(), accounts.collect())
            })
            .collect();
        assert_eq!(known, self.policies, "policies");
    }
}
