//! `ca: { broker: … }` against a provider of the tests' own.

use std::{
    collections::HashMap,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use adit::{
    credentials::{
        AttachedAs, Source, SourceError, Svids, Urgency, Wanted,
        broker::{Broker, BrokerConfig},
    },
    identity::X509Svid,
    lifecycle::Tasks,
    observe::metrics::Metrics,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{
    harness::Test,
    process::{Adit, command_of},
    provider::{Event, Provider, answer},
    svids::{ROOT, spiffe},
    wait::{LIMIT, wait_until_async},
};

pub(crate) const TESTS: &[Test] = &[
    ("broker_each_pod_has_a_key_of_its_own", each_pod_has_a_key_of_its_own),
    ("broker_more_pods_than_a_connection_has_streams", many_pods),
    ("broker_no_two_pods_have_one_key", no_two_pods_have_one_key),
    ("broker_another_than_the_provider_is_not_asked", another_provider),
    ("broker_somebody_elses_svid_is_not_used", somebody_elses_svid),
    ("broker_who_is_not_entitled_any_more_loses_it", withdrawal),
    ("broker_an_outage_leaves_the_last_good", an_outage_leaves_the_last_good),
    ("broker_a_new_svid_of_a_pod_replaces_the_old", a_new_svid),
    ("broker_adits_own_svid_changes_without_a_gap", own_rotation),
    ("broker_without_an_svid_of_adits_own_there_is_nothing", no_own_svid),
    ("broker_a_pod_that_is_gone_is_not_asked_for", gone),
    ("broker_a_process_that_has_ended_takes_its_key_along", ended_process),
    ("broker_over_tcp_processes_mean_nothing", over_tcp),
    ("broker_jwt_svids", jwt),
    ("broker_in_adit_run", in_adit_run),
];

const UID: &str = "a1b2c3d4-e5f6-7890-abcd-ef1234567890";

fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let within = async { tokio::time::timeout(3 * LIMIT, work).await };
    runtime.block_on(within).expect("the scenario ends")
}

fn broker(provider: &Provider, provider_name: &str) -> Broker {
    let socket = format!("unix://{}", provider.socket("broker.sock").display());
    broker_at(provider, provider_name, &socket)
}

fn broker_at(provider: &Provider, provider_name: &str, socket: &str) -> Broker {
    let agent = format!("unix://{}", provider.socket("agent.sock").display());
    Broker::follow(BrokerConfig {
        socket: socket.parse().unwrap(),
        workload_api: agent.parse().unwrap(),
        provider_id: spiffe(provider_name),
    })
}

/// A pod of a service account, with a UID that ends in its number.
fn pod(account: &str, number: u32) -> (Wanted, AttachedAs) {
    let name = format!("{account}-{number}");
    let uid: Arc<str> = format!("shop/{name}").into();
    let pod_uid = format!("{}{number:04}", &UID[..32]);
    let carried = AttachedAs {
        uid: Arc::clone(&uid),
        namespace: "shop".into(),
        name: name.into(),
        pod_uid: Some(pod_uid.into()),
        pid: None,
    };
    (Wanted { uid, id: spiffe(account) }, carried)
}

fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "spiffe.io", HashMap::new());
    Status::with_error_details(code, "said by the test", details)
}

/// Asks until it is as expected: news may come in several steps, and a busy machine takes its time.
async fn until(
    source: &impl Source,
    wanted: &Wanted,
    so: impl Fn(&Result<X509Svid, SourceError>) -> bool,
) {
    let begun = Instant::now();
    loop {
        let now = source.fetch(wanted, Urgency::OnDemand).await;
        if so(&now) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: another answer than {now:?}");
        let _ = tokio::time::timeout(Duration::from_millis(50), source.changed(wanted)).await;
    }
}

/// The SVID, once it has come.
async fn got(source: &impl Source, wanted: &Wanted) -> X509Svid {
    until(source, wanted, Result::is_ok).await;
    source.fetch(wanted, Urgency::OnDemand).await.unwrap()
}

fn each_pod_has_a_key_of_its_own() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker(&provider, "provider");
        let ((web, web_as), (db, db_as)) = (pod("web", 1), pod("db", 2));
        let own = std::process::id();
        let job = Wanted { uid: "shop/job".into(), id: spiffe("job") };
        let job_as = AttachedAs {
            uid: Arc::clone(&job.uid),
            pod_uid: None,
            pid: Some(own),
            ..db_as.clone()
        };
        source.carries(&[web_as, db_as, job_as]);
        for (name, of) in [("web", "shop/web-1"), ("db", "shop/db-2")] {
            provider.say(of, Ok(answer(&[&ROOT.own(name)])));
        }
        provider.say(&format!("pid {own}"), Ok(answer(&[&ROOT.own("job")])));
        let mut keys = Vec::new();
        for wanted in [&web, &db, &job] {
            let svid = got(&source, wanted).await;
            assert_eq!(svid.id, wanted.id);
            keys.push(svid.key.pkcs8().to_vec());
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 3);
        let asked = provider.references();
        let web = asked.iter().find(|r| r.key.as_ref().unwrap().name == "web-1").unwrap();
        assert_eq!(web.uid, "a1b2c3d4-e5f6-7890-abcd-ef1234560001");
        let kind = web.r#type.as_ref().unwrap();
        assert_eq!((&*kind.plural, &*kind.group), ("pods", "core"));
        assert_eq!(web.key.as_ref().unwrap().namespace, "shop");
        let domain = "td".parse().unwrap();
        assert_eq!(source.bundles().borrow().get(&domain).unwrap().authorities.len(), 1);
        provider.until("one stream for each pod", |p| p.open() == 3).await;
    });
}

fn many_pods() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker(&provider, "provider");
        let pods: Vec<_> = (0..120).map(|n| pod("web", n)).collect();
        source.carries(&pods.iter().map(|(_, carried)| carried.clone()).collect::<Vec<_>>());
        for n in 0..120 {
            provider.say(&format!("shop/web-{n}"), Ok(answer(&[&ROOT.own("web")])));
        }
        let all = pods.iter().map(|(wanted, _)| got(&source, wanted));
        futures_util::future::join_all(all).await;
        // One that did not begin in time is begun again, and the first may still be open.
        provider.until("each has one stream", |p| p.open() == 120).await;
        pods.iter().for_each(|(wanted, _)| source.forget(&wanted.uid));
        provider.until("all streams are closed", |p| p.open() == 0).await;
    });
}

fn no_two_pods_have_one_key() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker(&provider, "provider");
        let ((one, one_as), (two, two_as)) = (pod("web", 1), pod("web", 2));
        source.carries(&[one_as, two_as]);
        let shared = answer(&[&ROOT.own("web")]);
        provider.say("shop/web-1", Ok(shared.clone()));
        provider.say("shop/web-2", Ok(shared));
        got(&source, &one).await;
        let second = source.fetch(&two, Urgency::OnDemand).await.unwrap_err();
        assert!(matches!(second, SourceError::Refused { .. }), "{second}");
        assert!(second.to_string().contains("the same key as to shop/web-1"), "{second}");
        provider.say("shop/web-2", Ok(answer(&[&ROOT.own("web")])));
        until(&source, &two, Result::is_ok).await;
    });
}

fn another_provider() {
    block(async {
        let provider = Provider::start("mallory");
        let source = broker(&provider, "provider");
        let (web, web_as) = pod("web", 1);
        source.carries(&[web_as]);
        provider.say("shop/web-1", Ok(answer(&[&ROOT.own("web")])));
        let told = |got: &Result<_, SourceError>| match got {
            Err(error @ SourceError::Unavailable { .. }) => error.to_string().contains("mallory"),
            _ => false,
        };
        until(&source, &web, told).await;
        assert_eq!(provider.events(), [], "nothing was asked");
        assert!(source.bundles().borrow().iter().next().is_none());
    });
}

fn somebody_elses_svid() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker(&provider, "provider");
        let (web, web_as) = pod("web", 1);
        source.carries(&[web_as]);
        provider.say("shop/web-1", Ok(answer(&[&ROOT.own("db")])));
        let wrong = source.fetch(&web, Urgency::OnDemand).await.unwrap_err();
        assert!(matches!(wrong, SourceError::Unusable { .. }), "{wrong}");
        assert!(wrong.to_string().contains("it gave spiffe://td/ns/shop/sa/db"), "{wrong}");
        // Beside others the right one is found; what is left out later is withdrawn.
        let (db, own) = (ROOT.own("db"), ROOT.own("web"));
        provider.say("shop/web-1", Ok(answer(&[&db, &own])));
        until(&source, &web, |got| got.as_ref().is_ok_and(|s| s.serial == own.svid.serial)).await;
        provider.say("shop/web-1", Ok(answer(&[&db])));
        until(&source, &web, |got| matches!(got, Err(SourceError::Withdrawn { .. }))).await;
        assert!(source.bundles().borrow().iter().next().is_none(), "nor its bundles");
        // What breaks a rule is discarded whole, and what was there stays.
        provider.say("shop/web-1", Ok(answer(&[&own])));
        until(&source, &web, Result::is_ok).await;
        let mut broken = answer(&[&ROOT.own("web")]);
        broken.svids[0].x509_svid_key = db.svid.key.pkcs8().to_vec();
        provider.say("shop/web-1", Ok(broken));
        until(&source, &web, |got| matches!(got, Err(SourceError::Unusable { .. }))).await;
    });
}

fn withdrawal() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker(&provider, "provider");
        let ((web, web_as), (db, db_as)) = (pod("web", 1), pod("db", 2));
        source.carries(&[web_as, db_as]);
        provider.say("shop/db-2", Ok(answer(&[&ROOT.own("db")])));
        got(&source, &db).await;
        // Before there is anything to withdraw it is a refusal.
        for (code, reason) in [
            (Code::PermissionDenied, "WORKLOAD_NOT_ENTITLED"),
            (Code::NotFound, "WORKLOAD_NOT_FOUND"),
        ] {
            provider.say("shop/web-1", Err(refusal(code, reason)));
            let named = |e: &SourceError| {
                matches!(e, SourceError::Refused { .. }) && e.to_string().contains(reason)
            };
            until(&source, &web, |got| got.as_ref().is_err_and(named)).await;
        }
        for (code, reason) in [
            (Code::PermissionDenied, "WORKLOAD_NOT_ENTITLED"),
            (Code::NotFound, "WORKLOAD_NOT_FOUND"),
        ] {
            provider.say("shop/web-1", Ok(answer(&[&ROOT.own("web")])));
            until(&source, &web, Result::is_ok).await;
            provider.say("shop/web-1", Err(refusal(code, reason)));
            let named = |e: &SourceError| {
                matches!(e, SourceError::Withdrawn { .. }) && e.to_string().contains(reason)
            };
            until(&source, &web, |got| got.as_ref().is_err_and(named)).await;
        }
        provider.say("shop/web-1", Err(Status::unavailable("busy")));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let still = source.fetch(&web, Urgency::OnDemand).await.unwrap_err();
        assert!(matches!(still, SourceError::Withdrawn { .. }), "{still}");
        source.fetch(&db, Urgency::OnDemand).await.expect("others keep theirs");
    });
}

/// As `adit run` keeps them.
fn an_outage_leaves_the_last_good() {
    block(async {
        let provider = Provider::start("provider");
        let source = Arc::new(broker(&provider, "provider"));
        let svids = Svids::new(source.clone(), Arc::new(Metrics::new().unwrap()), Tasks::default());
        let (web, web_as) = pod("web", 1);
        svids.carries(&[web_as]);
        provider.say("shop/web-1", Ok(answer(&[&ROOT.own("web")])));
        svids.watch(&web.uid, &web.id);
        let before = svids.ready(&web.uid).await.unwrap().serial.clone();
        provider.say("shop/web-1", Err(Status::unavailable("busy")));
        let told = |svids: &Svids| svids.statuses()[0].last_error.clone();
        provider.until("the failure is told", |_| told(&svids).is_some()).await;
        assert!(told(&svids).unwrap().contains("busy"), "{:?}", told(&svids));
        assert_eq!(svids.statuses()[0].state, "Available");
        assert_eq!(svids.ready(&web.uid).await.unwrap().serial, before);
        let back = ROOT.own("web");
        provider.say("shop/web-1", Ok(answer(&[&back])));
        let serial = |svids: &Svids| svids.statuses()[0].serial_number.clone();
        let new = Some(back.svid.serial.clone());
        provider.until("it is back", |_| serial(&svids) == new).await;
        // Entitlement is another thing than an outage.
        provider.say("shop/web-1", Err(Status::permission_denied("no more")));
        provider.until("it is withdrawn", |_| serial(&svids).is_none()).await;
        assert!(svids.ready(&web.uid).await.is_err());
    });
}

fn a_new_svid() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker(&provider, "provider");
        let (web, web_as) = pod("web", 1);
        source.carries(&[web_as]);
        for _ in 0..3 {
            let own = ROOT.own("web");
            provider.say("shop/web-1", Ok(answer(&[&own])));
            until(&source, &web, |got| got.as_ref().is_ok_and(|s| s.serial == own.svid.serial))
                .await;
        }
        provider.until("by one stream", |p| p.open() == 1).await;
    });
}

fn own_rotation() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker(&provider, "provider");
        let ((web, web_as), (db, db_as)) = (pod("web", 1), pod("db", 2));
        source.carries(&[web_as, db_as]);
        provider.say("shop/web-1", Ok(answer(&[&ROOT.own("web")])));
        provider.say("shop/db-2", Ok(answer(&[&ROOT.own("db")])));
        got(&source, &web).await;
        got(&source, &db).await;
        let next = ROOT.own("adit");
        provider.say_own(Ok(answer(&[&next])));
        provider.until("both streams have moved", |p| p.events().len() == 6).await;
        for name in ["shop/web-1", "shop/db-2"] {
            let of = |e: &Event| match e {
                Event::Opened(pod, _) | Event::Closed(pod, _) => pod == name,
            };
            let events: Vec<_> = provider.events().into_iter().filter(of).collect();
            let [_, Event::Opened(_, shown), Event::Closed(_, old)] = &*events else {
                panic!("the old stream went before the new one was there: {events:?}")
            };
            assert_eq!(*shown, next.svid.serial);
            assert_ne!(*old, next.svid.serial);
        }
        source.fetch(&web, Urgency::OnDemand).await.unwrap();
        provider.until("one stream for each pod", |p| p.open() == 2).await;
    });
}

fn no_own_svid() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker(&provider, "provider");
        let (web, web_as) = pod("web", 1);
        source.carries(&[web_as]);
        let own = ROOT.own("web");
        provider.say("shop/web-1", Ok(answer(&[&own])));
        got(&source, &web).await;
        provider.say_own(Err(Status::permission_denied("no identity for you")));
        let told = |e: &SourceError| {
            matches!(e, SourceError::Unavailable { .. })
                && e.to_string().contains("no SVID for adit itself")
        };
        until(&source, &web, |got| got.as_ref().is_err_and(told)).await;
        provider.until("its streams are closed", |p| p.open() == 0).await;
        provider.say_own(Ok(answer(&[&ROOT.own("adit")])));
        until(&source, &web, Result::is_ok).await;
    });
}

fn gone() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker(&provider, "provider");
        let ((web, web_as), (db, db_as)) = (pod("web", 1), pod("db", 2));
        source.carries(&[web_as.clone(), db_as.clone()]);
        let refused = pod("job", 3).0;
        let stranger = source.fetch(&refused, Urgency::OnDemand).await.unwrap_err();
        assert!(matches!(stranger, SourceError::Refused { .. }), "{stranger}");
        provider.say("shop/web-1", Ok(answer(&[&ROOT.own("web")])));
        provider.say("shop/db-2", Ok(answer(&[&ROOT.own("db")])));
        got(&source, &web).await;
        got(&source, &db).await;
        source.forget(&db.uid);
        provider.until("its stream is closed", |p| p.open() == 1).await;
        // The same name with another UID is another pod: the old one's key is not its own.
        let anew = AttachedAs { pod_uid: Some(UID.into()), ..web_as };
        provider.say("shop/web-1", Err(Status::not_found("not yet")));
        source.carries(&[anew]);
        provider.until("the old one's stream is closed", |p| p.open() == 0).await;
        let none = source.fetch(&web, Urgency::OnDemand).await.unwrap_err();
        assert!(matches!(none, SourceError::Refused { .. }), "{none}");
        provider.say("shop/web-1", Ok(answer(&[&ROOT.own("web")])));
        until(&source, &web, Result::is_ok).await;
        assert_eq!(provider.references().last().unwrap().uid, UID);
        source.carries(&[]);
        provider.until("nothing is asked for", |p| p.open() == 0).await;
        let none = source.fetch(&web, Urgency::OnDemand).await.unwrap_err();
        assert!(matches!(none, SourceError::Refused { .. }), "{none}");
        assert!(source.bundles().borrow().iter().next().is_none());
    });
}

fn ended_process() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker(&provider, "provider");
        let mut process = Command::new("sleep").arg("60").spawn().unwrap();
        let (web, mut web_as) = pod("web", 1);
        (web_as.pod_uid, web_as.pid) = (None, Some(process.id()));
        source.carries(&[web_as]);
        provider.say(&format!("pid {}", process.id()), Ok(answer(&[&ROOT.own("web")])));
        let got = source.fetch(&web, Urgency::OnDemand).await;
        process.kill().unwrap();
        process.wait().unwrap();
        got.unwrap();
        until(&source, &web, |got| matches!(got, Err(SourceError::Withdrawn { .. }))).await;
        provider.until("its stream is closed", |p| p.open() == 0).await;
        let jwt = source.fetch_jwt(&web, &["db".into()]).await.unwrap_err();
        assert!(jwt.to_string().contains("has ended"), "{jwt}");
    });
}

fn over_tcp() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker_at(&provider, "provider", &format!("tcp://{}", provider.tcp));
        let ((web, web_as), (db, mut db_as)) = (pod("web", 1), pod("db", 2));
        (db_as.pod_uid, db_as.pid) = (None, Some(std::process::id()));
        source.carries(&[web_as, db_as]);
        provider.say("shop/web-1", Ok(answer(&[&ROOT.own("web")])));
        got(&source, &web).await;
        let refused = source.fetch(&db, Urgency::OnDemand).await.unwrap_err();
        assert!(refused.to_string().contains("write the pod's `uid`"), "{refused}");
        provider.until("one stream", |p| p.open() == 1).await;
    });
}

fn jwt() {
    block(async {
        let provider = Provider::start("provider");
        let source = broker(&provider, "provider");
        let (web, web_as) = pod("web", 1);
        source.carries(&[web_as]);
        provider.say("shop/web-1", Ok(answer(&[&ROOT.own("web")])));
        got(&source, &web).await;
        let audiences = ["db".to_owned(), "log".to_owned()];
        assert_eq!(source.fetch_jwt(&web, &audiences).await.unwrap(), "token.for.db+log");
        let domain = "td".parse().unwrap();
        let known = || {
            let bundles = source.bundles().borrow().clone();
            bundles.get(&domain).is_some_and(|bundle| bundle.jwt_authorities.len() == 1)
        };
        provider.until("its JWT authorities are known", |_| known()).await;
        provider.say("shop/web-1", Ok(answer(&[&ROOT.own("db")])));
        let others = source.fetch_jwt(&web, &audiences).await.unwrap_err();
        assert!(matches!(others, SourceError::Unusable { .. }), "{others}");
        provider.say("shop/web-1", Err(refusal(Code::PermissionDenied, "WORKLOAD_NOT_ENTITLED")));
        let denied = source.fetch_jwt(&web, &audiences).await.unwrap_err();
        assert!(matches!(denied, SourceError::Refused { .. }), "{denied}");
    });
}

fn in_adit_run() {
    block(async {
        let provider = Provider::start("provider");
        provider.say("shop/web-1", Ok(answer(&[&ROOT.own("web")])));
        let dir = tempfile::tempdir().unwrap();
        let at = |name| format!("unix://{}", provider.socket(name).display());
        let mesh = |uid: &str| {
            format!(
                "trustDomain: td\ncapture: {{ rules: none }}\nca: {{ broker: {{ socket: '{}', \
                 workloadApi: '{}', providerId: {} }} }}\nworkloads:\n\
                 - {{ name: web-1, namespace: shop, \
                 serviceAccount: web, addresses: [10.0.0.1], uid: {uid} }}\n",
                at("broker.sock"),
                at("agent.sock"),
                spiffe("provider")
            )
        };
        let write = |uid: &str| {
            std::fs::write(dir.path().join("mesh.tmp"), mesh(uid)).unwrap();
            std::fs::rename(dir.path().join("mesh.tmp"), dir.path().join("mesh.yaml")).unwrap();
        };
        write(UID);
        let file = dir.path().join("mesh.yaml");
        let adit = Adit::launch(command_of(["run".as_ref(), "-c".as_ref(), file.as_os_str()]));
        for (uid, svid) in [(UID, ROOT.own("web")), (&UID.replace('a', "b"), ROOT.own("web"))] {
            provider.say("shop/web-1", Ok(answer(&[&svid])));
            write(uid);
            let serial = svid.svid.serial.as_str();
            wait_until_async("the pod of this UID has its SVID", LIMIT, async || {
                adit.count(serial) > 0
                    && provider.references().last().is_some_and(|asked| asked.uid == uid)
            })
            .await;
        }
        assert!(adit.count("incubating") > 0);
    });
}
