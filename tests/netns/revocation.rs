//! Who is no longer trusted loses open connections and idle tunnels within a second, each record
//! says why, and nobody else notices. Bundles, CRLs and bans come from a source of the test's own,
//! so these nodes run in this process.

use std::{
    collections::BTreeSet,
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use adit::{
    authority::EmbeddedCa,
    credentials::{Source, SourceError, Svids, Urgency, Wanted},
    hbone::{PeerExpiry, Trust},
    identity::{BundleSet, SpiffeId, TrustBundle, X509Svid},
    lifecycle::Tasks,
    net::PodName,
    observe::Telemetry,
    pods::capture,
    roles::node::{Node, Pod, revalidate},
};
use futures_util::future::{BoxFuture, FutureExt, ready};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyPair,
    KeyUsagePurpose as Ku, RevokedCertParams, SerialNumber,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    forge::{forge, forge_by, hold, issuer, two_requests, uncaptured},
    lab::Lab,
    mesh::{PODS, allow, held, lab, still_answers},
    wait::wait_until,
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("revocation::a_revoked_caller_loses_its_connections_and_its_neighbour_none", revoked_caller),
    ("revocation::a_revoked_callee_loses_the_tunnels_that_lead_to_it", revoked_callee),
    ("revocation::an_idle_tunnel_of_a_revoked_caller_goes_too", idle_tunnel),
    ("revocation::a_banned_identity_is_cut_off_both_ways_until_it_is_not", banned),
    ("revocation::a_trust_domain_that_is_taken_away_takes_its_callers_along", trust_domain),
    ("revocation::a_root_that_is_taken_away_takes_its_callers_along", root_removed),
    ("revocation::an_expired_caller_goes_after_its_grace_and_not_before", expired),
    ("revocation::a_tunnel_that_is_withdrawn_begins_no_more_streams", withdrawn),
    ("revocation::readiness_turns_only_when_an_identity_has_nothing_left", outage),
];

const SECOND: Duration = Duration::from_secs(1);
const GUEST: &str = "spiffe://other.test/ns/shop/sa/guest";

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

/// The embedded CA with bundles and bans that the test says.
struct Levers {
    ca: EmbeddedCa,
    bundles: watch::Sender<Arc<BundleSet>>,
    banned: watch::Sender<Arc<BTreeSet<SpiffeId>>>,
}

impl Source for Levers {
    fn kind(&self) -> &'static str {
        "levers"
    }

    fn bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.bundles.subscribe()
    }

    fn banned(&self) -> Option<watch::Receiver<Arc<BTreeSet<SpiffeId>>>> {
        Some(self.banned.subscribe())
    }

    fn fetch<'a>(
        &'a self,
        wanted: &'a Wanted,
        _urgency: Urgency,
    ) -> BoxFuture<'a, Result<X509Svid, SourceError>> {
        ready(self.ca.issue(&wanted.id).map_err(SourceError::from)).boxed()
    }
}

/// A root of another trust domain.
fn other_root() -> (TrustBundle, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![Ku::KeyCertSign];
    let root = params.self_signed(&key).unwrap().der().clone();
    (TrustBundle::new("other.test".parse().unwrap(), vec![root]), Issuer::new(params, key))
}

/// A node in this process that carries the pods of the lab.
struct Running {
    lab: Lab,
    levers: Arc<Levers>,
    node: Arc<Node>,
    pods: Vec<Arc<Pod>>,
    tasks: Tasks,
    guest: Issuer<'static, KeyPair>,
    bundles: [TrustBundle; 2],
    runtime: tokio::runtime::Runtime,
}

fn running() -> Running {
    let lab = Lab::new(PODS);
    lab.echo("db", 8080);
    let text = format!(
        "trustDomain: cluster.local\nca: {{ embedded: {{ dir: {} }} }}\ncapture: {{ rules: nft }}\n\
         {}",
        lab.file("ca").display(),
        allow(&["web", "spy"])
            .replace("principals: [", "principals: [other.test/ns/shop/sa/guest, ")
    );
    let checked = adit::config::parse("mesh", &text).unwrap();
    let wanted = checked.local_workloads();
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
    let entered = runtime.enter();
    let td = "cluster.local".parse().unwrap();
    let ca = EmbeddedCa::open(&lab.file("ca"), &td, Duration::from_secs(3600)).unwrap();
    let (other, guest) = other_root();
    let bundles = [ca.bundle(), other];
    let all = Arc::new(bundles.iter().cloned().collect());
    let (bundles_tx, banned) = (watch::channel(all).0, watch::channel(Arc::default()).0);
    let levers = Arc::new(Levers { ca, bundles: bundles_tx, banned });
    let (telemetry, tasks) = (Telemetry::new().unwrap(), Tasks::default());
    let source: Arc<dyn Source> = levers.clone();
    let svids = Svids::new(source, Arc::clone(&telemetry.metrics), tasks.child());
    let node = Node::new(checked.mesh.store().view(), Arc::new(svids), telemetry);
    let node = Arc::new(Node { workers: vec![runtime.handle().clone()], ..node });
    tasks.spawn(revalidate(Arc::clone(&node)));
    let pods = wanted.iter().map(|workload| {
        node.svids.watch(&workload.uid, workload.id());
        let uid = Arc::clone(&workload.uid);
        let name = PodName { uid: Arc::clone(&uid), name: uid, service_account: None };
        let pod = Pod::start(&node, name, workload.app_hop(), Arc::new(lab.netns(workload.name())))
            .unwrap();
        capture::apply(&pod.netns, capture::Options::default(), &CancellationToken::new()).unwrap();
        pod
    });
    let pods = pods.collect();
    drop(entered);
    Running { lab, levers, node, pods, tasks, guest, bundles, runtime }
}

impl Drop for Running {
    fn drop(&mut self) {
        let hurry = tokio_util::sync::CancellationToken::new();
        for pod in &self.pods {
            self.runtime.block_on(pod.stop(&self.node, Duration::ZERO, &hurry));
        }
        self.tasks.cut();
    }
}

impl Running {
    /// The serial number of a workload's SVID.
    fn serial(&self, account: &str) -> String {
        let all = self.node.svids.statuses();
        let own = all.into_iter().find(|s| s.identity == id(account).as_str());
        own.and_then(|s| s.serial_number).unwrap()
    }

    fn trust(&self, bundles: &[TrustBundle]) {
        self.levers.bundles.send_replace(Arc::new(bundles.iter().cloned().collect()));
    }

    /// Puts a CRL that names a workload's SVID into the bundle.
    fn revoke(&self, account: &str) {
        let serial = self.serial(account);
        let bytes = (0..serial.len() / 2).map(|n| u8::from_str_radix(&serial[2 * n..][..2], 16));
        let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().unwrap();
        let now = time::OffsetDateTime::now_utc();
        let params = CertificateRevocationListParams {
            this_update: now - SECOND,
            next_update: now + 60 * SECOND,
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from_slice(&bytes),
                revocation_time: now - SECOND,
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let crl = params.signed_by(&issuer(&self.lab)).unwrap().der().clone();
        let [own, other] = self.bundles.clone();
        self.trust(&[TrustBundle { crls: vec![crl], ..own }, other]);
    }

    fn ban(&self, accounts: &[&str]) {
        self.levers.banned.send_replace(Arc::new(accounts.iter().map(|a| id(a)).collect()));
    }

    /// How many connections that `reporter` saw ended with `reason`.
    fn closed(&self, reporter: &str, reason: &str) -> usize {
        let (reason, reporter) = (format!("\"{reason}\""), format!("reporter=\"{reporter}\""));
        let of = |line: &&str| {
            line.starts_with("istio_tcp_connections_closed_total")
                && line.contains(&reason)
                && line.contains(&reporter)
        };
        let text = self.node.telemetry.metrics.render(&self.node.telemetry.live);
        let counts = text.lines().filter(of).map(|l| l.rsplit(' ').next().unwrap());
        counts.map(|n| n.parse::<usize>().unwrap()).sum()
    }

    /// Waits until so many ended with `reason`, for a second at most.
    #[track_caller]
    fn closes_in_a_second(&self, reporter: &str, reason: &str, count: usize) {
        let what = format!("{count} {reporter} {reason}");
        wait_until(&what, SECOND, || self.closed(reporter, reason) == count);
    }

    fn guest(&self) -> (TcpStream, crate::corpus::Forged) {
        (uncaptured(&self.lab, "10.77.0.2:15008"), forge_by(&self.guest, &[GUEST], |_| ()))
    }
}

fn revoked_caller() {
    let run = running();
    let (mut web, mut spy) = (held(&run.lab, "web"), held(&run.lab, "spy"));
    let before = run.serial("web");
    run.revoke("web");
    run.closes_in_a_second("destination", "svid_revoked", 1);
    assert!(!still_answers(&mut web));
    assert!(still_answers(&mut spy));
    // Its own node has it renewed at once.
    run.lab.wait("renewed", || run.serial("web") != before);
    assert!(still_answers(&mut held(&run.lab, "web")));
    assert_eq!(run.closed("destination", "svid_revoked"), 1);
    assert_eq!(run.closed("source", "svid_revoked"), 0, "db is whom it was");
}

fn revoked_callee() {
    let run = running();
    let (mut web, (socket, forged)) = (held(&run.lab, "web"), run.guest());
    let guest = hold(socket, forged, Some("10.77.0.2:8080"));
    run.revoke("db");
    run.closes_in_a_second("source", "svid_revoked", 1);
    assert!(!still_answers(&mut web));
    assert_eq!(run.closed("destination", "svid_revoked"), 0);
    assert!(!guest.is_finished(), "the guest's own node decides about db");
}

fn idle_tunnel() {
    let run = running();
    for caller in ["web", "spy"] {
        drop(held(&run.lab, caller));
    }
    run.lab.wait("no connection", || run.node.telemetry.live.is_empty());
    assert_eq!(run.node.tunnels.len(), 4, "a tunnel of each, both ends ours");
    run.revoke("spy");
    wait_until("two tunnels are left", SECOND, || run.node.tunnels.len() == 2);
    let one = "adit_tunnels_closed_total{close_reason=\"svid_revoked\",reporter=\"destination\"} 1";
    run.lab.wait("the tunnel is counted", || {
        run.node.telemetry.metrics.render(&run.node.telemetry.live).contains(one)
    });
    assert!(still_answers(&mut held(&run.lab, "spy")));
}

fn banned() {
    let run = running();
    let (mut web, mut spy) = (held(&run.lab, "web"), held(&run.lab, "spy"));
    run.ban(&["web"]);
    run.closes_in_a_second("destination", "identity_banned", 1);
    run.closes_in_a_second("source", "identity_banned", 1);
    assert!(!still_answers(&mut web));
    assert!(run.lab.ask("web", "10.96.0.10:80").is_err(), "nothing new either");
    run.lab.wait("refused", || run.closed("source", "identity_banned") == 2);
    assert!(still_answers(&mut spy));
    run.ban(&[]);
    run.lab.wait("an SVID is had again", || run.lab.ask("web", "10.96.0.10:80").is_ok());
    assert!(still_answers(&mut held(&run.lab, "web")));
}

fn trust_domain() {
    let run = running();
    let mut web = held(&run.lab, "web");
    let [(one, forged), (two, other)] = [run.guest(), run.guest()];
    let (open, idle) = (hold(one, forged, Some("10.77.0.2:8080")), hold(two, other, None));
    let start = Instant::now();
    run.trust(&run.bundles[..1]);
    run.closes_in_a_second("destination", "trust_domain_removed", 1);
    for tunnel in [open, idle] {
        assert!(tunnel.join().unwrap() - start < SECOND);
    }
    assert!(still_answers(&mut web));
}

fn root_removed() {
    let run = running();
    let mut web = held(&run.lab, "web");
    let (socket, forged) = run.guest();
    let open = hold(socket, forged, Some("10.77.0.2:8080"));
    // Beside its successor nothing changes; without it its callers go.
    let (successor, _) = other_root();
    let mut both = run.bundles[1].clone();
    both.authorities.extend(successor.authorities.clone());
    run.trust(&[run.bundles[0].clone(), both]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!open.is_finished());
    let start = Instant::now();
    run.trust(&[run.bundles[0].clone(), successor]);
    run.closes_in_a_second("destination", "untrusted_svid", 1);
    assert!(open.join().unwrap() - start < SECOND);
    assert!(still_answers(&mut web));
}

/// Also in the moment in which it is condemned and not yet ended: each end by itself.
fn withdrawn() {
    let run = running();
    let condemn = |peer: &SpiffeId| {
        let nobody = Trust::default();
        let now = std::time::SystemTime::now();
        run.node.tunnels.recheck(&nobody, |id| id == peer, PeerExpiry::Keep, now).len()
    };
    drop(held(&run.lab, "web"));
    run.lab.wait("no connection", || run.node.telemetry.live.is_empty());
    assert_eq!(condemn(&id("db")), 1, "the callers' end of it");
    assert!(run.lab.ask("web", "10.96.0.10:80").is_ok());
    assert_eq!(run.node.tunnels.len(), 4, "in a tunnel of its own");
    let (socket, forged) = run.guest();
    let (say, first) = std::sync::mpsc::channel();
    let between = async move {
        say.send(()).unwrap();
        tokio::time::sleep(SECOND).await;
    };
    let asked = std::thread::spawn(move || two_requests(socket, forged, "10.77.0.2:8080", between));
    first.recv().unwrap();
    run.lab.wait("its tunnel is condemned", || condemn(&GUEST.parse().unwrap()) == 1);
    assert_eq!(asked.join().unwrap(), [200, 401]);
    run.lab.wait("said", || run.closed("destination", "trust_domain_removed") == 1);
}

/// The caller's SVID lasts three seconds and one more, as the last is whole; then the grace.
fn expired() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    lab.start(&format!("peerExpiry: {{ grace: 1s }}\n{}", allow(&["web"])));
    let mut web = held(&lab, "web");
    let end = time::OffsetDateTime::now_utc() + 3 * SECOND;
    let short = || {
        let uri = id("web");
        forge(&lab, &[uri.as_str()], |p| p.not_after = end)
    };
    let dial = || uncaptured(&lab, "10.77.0.2:15008");
    let open = hold(dial(), short(), Some("10.77.0.2:8080"));
    let idle = hold(dial(), short(), None);
    let whole = end.replace_nanosecond(0).unwrap() + 2 * SECOND;
    let closed = |tunnel: std::thread::JoinHandle<Instant>| {
        let at = tunnel.join().unwrap();
        time::OffsetDateTime::now_utc() - at.elapsed()
    };
    let open = closed(open);
    assert!(open >= whole && open < whole + SECOND, "{}", open - whole);
    assert!(closed(idle) < whole, "nothing ran in it: it is told to go ahead of the end");
    assert_eq!(lab.record("inbound", "svid_expired")["src.identity"], id("web").as_str());
    assert_eq!(lab.records("inbound", "svid_expired").len(), 1);
    lab.logs("tunnel closed");
    assert!(still_answers(&mut web), "its SVID has an hour");
}

fn outage() {
    let mut lab = lab(&["web"]);
    assert!(lab.stop().success());
    lab.lifetime = "10s";
    lab.start(&allow(&["web"]));
    let ready = || lab.admin("127.0.0.1:15021", "GET /healthz/ready");
    let budget = || {
        let metrics = lab.admin("127.0.0.1:15020", "GET /metrics");
        let line =
            metrics.lines().find_map(|l| l.strip_prefix("adit_identity_outage_budget_seconds "));
        line.unwrap().parse::<f64>().unwrap()
    };
    lab.wait("a budget of one life of an SVID", || (4.0..=10.0).contains(&budget()));
    std::fs::rename(lab.file("ca/root-key.pem"), lab.file("ca/away")).unwrap();
    lab.wait("failing", || lab.log().contains("the previous SVID is valid for another"));
    assert!(ready().contains("200 OK"), "{}", ready());
    let certs = lab.shows("127.0.0.1:15000", "GET /certs", "is missing");
    assert!(certs.contains("\"source\": \"embedded\""), "{certs}");
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    lab.wait("not ready, and why", || {
        let answer = ready();
        let why = "no valid SVID for spiffe://cluster.local/ns/shop/sa/";
        let last = "the last has expired; CA file";
        ["500", why, last].iter().all(|word| answer.contains(word))
    });
    lab.wait("nothing is left of the budget", || budget() < 1.0);
    std::fs::rename(lab.file("ca/away"), lab.file("ca/root-key.pem")).unwrap();
    lab.admin("127.0.0.1:15000", &format!("POST /certs/rotate?id={}", id("web")));
    lab.wait("ready again", || ready().contains("200 OK"));
}
