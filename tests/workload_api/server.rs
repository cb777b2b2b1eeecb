//! What a server of the Workload API must and must not do.

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant, SystemTime},
};

use adit::{
    credentials::{Source, SourceError, Urgency, Wanted, workload_api::WorkloadApi},
    identity::{JwtAuthority, TrustBundle, TrustDomain, validate_jwt_svid},
    rpc::workload::{
        JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest,
        X509svidRequest, X509svidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient as Client,
    },
};
use tonic::{Code, Streaming};

use super::{
    harness::Test,
    served::{Served, with_header},
    wait::{LIMIT, wait_until, wait_until_async},
    wire::connected_by_another,
};

pub(crate) const TESTS: &[Test] = &[
    ("the_header_comes_before_everything", the_header_comes_before_everything),
    ("the_first_message_is_the_whole_state", the_first_message_is_the_whole_state),
    ("changes_are_told_and_nothing_else", changes_are_told_and_nothing_else),
    ("bad_requests_have_their_codes", bad_requests_have_their_codes),
    ("a_jwt_svid_is_valid_here_and_with_the_keys_that_are_told", jwt),
    ("the_source_keeps_what_it_is_told_and_drops_what_is_withdrawn", source),
    ("nobody_elses_identity", nobody_elses_identity),
    ("clients_that_come_and_go_leave_nothing", clients_that_come_and_go_leave_nothing),
    ("the_last_descriptors_are_not_for_callers", the_last_descriptors_are_not_for_callers),
];

pub(crate) const TWO: &str = "  - { id: /one, hint: one, selectors: { uid: 0 } }
  - { id: /two, hint: one, selectors: { uid: 0 } }";

pub(crate) fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let within = async { tokio::time::timeout(3 * LIMIT, work).await };
    runtime.block_on(within).expect("the scenario ends")
}

pub(crate) async fn stream(served: &Served) -> Streaming<X509svidResponse> {
    let request = with_header(X509svidRequest {}, &["true"]);
    Client::new(served.channel()).fetch_x509svid(request).await.unwrap().into_inner()
}

fn the_header_comes_before_everything() {
    let served = Served::start("  - { id: /one, selectors: { uid: 99 } }");
    block(async {
        let mut client = Client::new(served.channel());
        for values in [&[][..], &["True"], &["1"], &["true", "true"], &["true,true"]] {
            let refused = client.fetch_x509svid(with_header(X509svidRequest {}, values)).await;
            assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument, "{values:?}");
        }
        let right = client.fetch_x509svid(with_header(X509svidRequest {}, &["true"])).await;
        assert_eq!(right.unwrap_err().code(), Code::PermissionDenied);
    });
}

fn the_first_message_is_the_whole_state() {
    let served = Served::start(TWO);
    block(async {
        stream(&served).await.message().await.unwrap();
        // Of some, the quickest: the machine may be busy.
        let mut quickest = Duration::MAX;
        for _ in 0..10 {
            let start = Instant::now();
            stream(&served).await.message().await.unwrap();
            quickest = quickest.min(start.elapsed());
        }
        assert!(quickest < Duration::from_millis(50), "{quickest:?}");
        let first = stream(&served).await.message().await.unwrap().unwrap();
        let ids: Vec<_> = first.svids.iter().map(|s| (&*s.spiffe_id, &*s.hint)).collect();
        let expected = [("spiffe://example.org/one", "one"), ("spiffe://example.org/two", "")];
        assert_eq!(ids, expected, "a hint is used once");
        let whole = |s: &adit::rpc::workload::X509svid| {
            !s.x509_svid.is_empty() && !s.x509_svid_key.is_empty() && !s.bundle.is_empty()
        };
        assert!(first.svids.iter().all(whole));
        let request = with_header(X509BundlesRequest {}, &["true"]);
        let mut bundles = Client::new(served.channel()).fetch_x509_bundles(request).await.unwrap();
        let bundles = bundles.get_mut().message().await.unwrap().unwrap().bundles;
        assert_eq!(bundles["spiffe://example.org"], first.svids[0].bundle);
    });
}

fn changes_are_told_and_nothing_else() {
    let served = Served::start(TWO);
    block(async {
        let mut updates = stream(&served).await;
        assert_eq!(updates.message().await.unwrap().unwrap().svids.len(), 2);
        served.edit(&format!("{TWO}\n  - {{ id: /three, selectors: {{ uid: 99 }} }}"));
        let quiet = tokio::time::timeout(Duration::from_millis(500), updates.message()).await;
        assert!(quiet.is_err(), "nothing changed for us");
        served.edit("  - { id: /two, selectors: { uid: 0 } }");
        let less = updates.message().await.unwrap().unwrap();
        assert_eq!(less.svids.len(), 1);
        served.edit("  - { id: /two, selectors: { uid: 99 } }");
        assert_eq!(updates.message().await.unwrap_err().code(), Code::PermissionDenied);
    });
}

fn bad_requests_have_their_codes() {
    let served = Served::start(TWO);
    block(async {
        let mut client = Client::new(served.channel());
        for (audience, spiffe_id, code) in [
            (&[][..], "", Code::InvalidArgument),
            (&[""], "", Code::InvalidArgument),
            (&["a"], "spiffe://", Code::InvalidArgument),
            (&["a"], "spiffe://example.org/other", Code::PermissionDenied),
            (&["a"], "spiffe://elsewhere.org/one", Code::PermissionDenied),
        ] {
            let audience = audience.iter().map(ToString::to_string).collect();
            let request = JwtsvidRequest { audience, spiffe_id: spiffe_id.into() };
            let answer = client.fetch_jwtsvid(with_header(request, &["true"])).await;
            assert_eq!(answer.unwrap_err().code(), code, "{spiffe_id}");
        }
        for (audience, svid) in [("", "a.b.c"), ("a", ""), ("a", "a.b.c")] {
            let request = ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() };
            let answer = client.validate_jwtsvid(with_header(request, &["true"])).await;
            assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument, "{audience} {svid}");
        }
        for path in ["/SpiffeWorkloadAPI/FetchWITSVID", "/SpiffeWorkloadAPI/X", "/Other/X"] {
            let mut grpc = tonic::client::Grpc::new(served.channel());
            grpc.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<X509svidRequest, X509svidResponse>::default();
            let request = with_header(X509svidRequest {}, &["true"]);
            let answer = grpc.unary(request, path.parse().unwrap(), codec).await;
            assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{path}");
        }
    });
}

fn jwt() {
    let served = Served::start(TWO);
    block(async {
        let mut client = Client::new(served.channel());
        let request = JwtsvidRequest { audience: vec!["db".into()], spiffe_id: String::new() };
        let answer = client.fetch_jwtsvid(with_header(request, &["true"])).await.unwrap();
        let svids = answer.into_inner().svids;
        assert_eq!(svids.len(), 2, "one for each identity");
        let token = svids[0].svid.clone();
        let validate = |audience: &str| {
            let (audience, svid) = (audience.into(), token.clone());
            with_header(ValidateJwtsvidRequest { audience, svid }, &["true"])
        };
        let valid = client.validate_jwtsvid(validate("db")).await.unwrap().into_inner();
        assert_eq!(valid.spiffe_id, svids[0].spiffe_id);
        let wrong = client.validate_jwtsvid(validate("web")).await.unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument);
        let request = with_header(JwtBundlesRequest {}, &["true"]);
        let mut bundles = client.fetch_jwt_bundles(request).await.unwrap().into_inner();
        let first = bundles.message().await.unwrap().unwrap().bundles;
        let keys = JwtAuthority::from_jwks(&first["spiffe://example.org"]).unwrap();
        let domain: TrustDomain = "example.org".parse().unwrap();
        let mut bundle = TrustBundle::new(domain, Vec::new());
        bundle.jwt_authorities = keys;
        let bundles = [bundle].into_iter().collect();
        let svid = validate_jwt_svid(&token, "db", &bundles, SystemTime::now()).unwrap();
        assert_eq!(svid.id.as_str(), svids[0].spiffe_id);
    });
}

/// Our own client of the API, as `ca: { workloadApi: … }` uses it.
fn source() {
    let served = Served::start(TWO);
    block(async {
        let endpoint = format!("unix://{}", served.socket().display()).parse().unwrap();
        let source = WorkloadApi::follow(&endpoint);
        let wanted = |uid: &str, id: &str| Wanted { uid: uid.into(), id: id.parse().unwrap() };
        let one = wanted("shop/one", "spiffe://example.org/one");
        let svid = source.fetch(&one, Urgency::OnDemand).await.unwrap();
        assert_eq!(svid.id, one.id);
        let domain: TrustDomain = "example.org".parse().unwrap();
        assert!(source.bundles().borrow().get(&domain).is_some());
        let two = wanted("shop/other", "spiffe://example.org/one");
        assert!(source.fetch(&two, Urgency::OnDemand).await.is_err(), "a key serves one pod");
        let token = source.fetch_jwt(&one, &["db".into()]).await.unwrap();
        assert_eq!(token.split('.').count(), 3);
        served.edit("  - { id: /one, selectors: { uid: 99 } }");
        source.changed(&one).await;
        let gone = source.fetch(&one, Urgency::OnDemand).await.unwrap_err();
        assert!(matches!(gone, SourceError::Withdrawn { .. }), "{gone}");
        served.edit(TWO);
        while source.fetch(&one, Urgency::OnDemand).await.is_err() {
            source.changed(&one).await;
        }
    });
}

fn nobody_elses_identity() {
    let own = std::env::current_exe().unwrap();
    let served = Served::start(&format!(
        "  - {{ id: /test, selectors: {{ uid: 0, path: {} }} }}\n  - {{ id: /adit, selectors: {{ \
         uid: 0, path: {} }} }}",
        own.display(),
        env!("CARGO_BIN_EXE_adit"),
    ));
    block(async {
        let first = stream(&served).await.message().await.unwrap().unwrap();
        let ids: Vec<_> = first.svids.iter().map(|s| &*s.spiffe_id).collect();
        assert_eq!(ids, ["spiffe://example.org/test"]);
    });
    let fetch = std::process::Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["svid", "fetch", "x509", "--socket"])
        .arg(served.socket())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&fetch.stdout);
    assert!(text.contains("example.org/adit") && !text.contains("/test"), "{text}");
}

fn clients_that_come_and_go_leave_nothing() {
    let served = Served::start(TWO);
    block(async {
        stream(&served).await.message().await.unwrap();
        let before = served.descriptors();
        for _ in 0..300 {
            stream(&served).await.message().await.unwrap();
        }
        let gone = async || served.descriptors() <= before;
        wait_until_async("no descriptor more is open than before", LIMIT, gone).await;
    });
}

/// Callers that say nothing, from many processes: certificates, rules and configuration have the
/// descriptors that are kept for them.
fn the_last_descriptors_are_not_for_callers() {
    let served = Served::start(TWO);
    served.limit_descriptors(256);
    let mut silent: Vec<_> =
        (0..60).filter_map(|_| UnixStream::connect(served.socket()).ok()).collect();
    let refused = || served.count("Too many open files");
    while refused() == 0 && silent.len() < 250 {
        silent.push(connected_by_another(&served));
    }
    wait_until("the shortage is told", LIMIT, || refused() > 0);
    // It lasts, and is told once in ten seconds.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(refused() <= 2, "{} lines", refused());
    let full = served.descriptors();
    assert!((150..=196).contains(&full), "{full} descriptors are taken");
    served.edit("  - { id: /two, selectors: { uid: 0 } }");
    drop(silent);
    block(async {
        let back = wait_until_async("there is a place again", LIMIT, async || {
            let request = with_header(X509svidRequest {}, &["true"]);
            Client::new(served.channel()).fetch_x509svid(request).await.is_ok()
        });
        back.await;
    });
}
