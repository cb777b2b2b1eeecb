//! What open streams hear of: other trust domains, revocations; and what a socket goes through.

use std::{os::unix::fs::FileTypeExt, path::Path, time::Duration};

use adit::{
    authority::EmbeddedCa,
    rpc::workload::{
        JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
        spiffe_workload_api_client::SpiffeWorkloadApiClient as Client,
    },
};
use nix::sys::signal::Signal;
use tonic::Code;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{
    harness::Test,
    served::{Served, with_header},
    server::{TWO, block, stream},
    wait::{LIMIT, wait_until_async},
};

pub(crate) const TESTS: &[Test] = &[
    ("a_trust_domain_that_is_taken_out_is_in_no_message", a_trust_domain_that_is_taken_out),
    ("who_is_banned_gets_nothing_and_all_hear_of_it", banned),
    ("of_another_trust_domains_token_only_the_standards_claims_are_told", foreign_claims),
    ("reflection_needs_no_header", reflection_needs_no_header),
    ("one_process_has_its_share_of_streams", one_process_has_its_share_of_streams),
    ("a_socket_goes_with_adit_and_one_that_a_crash_left_is_replaced", socket),
];

/// The bundle document of another trust domain, and its root.
fn foreign(dir: &Path) -> (String, Vec<u8>) {
    let domain = "example-federated.org".parse().unwrap();
    let ca = EmbeddedCa::open(&dir.join("ca"), &domain, Duration::from_secs(3600)).unwrap();
    let bundle = ca.bundle();
    std::fs::write(dir.join("bundle.json"), bundle.to_document().to_string()).unwrap();
    (dir.join("bundle.json").display().to_string(), bundle.authorities[0].to_vec())
}

fn a_trust_domain_that_is_taken_out() {
    const OTHER: &str = "spiffe://example-federated.org";
    let dir = tempfile::tempdir().unwrap();
    let (file, root) = foreign(dir.path());
    let served = Served::start(TWO);
    block(async {
        let mut svids = stream(&served).await;
        assert!(svids.message().await.unwrap().unwrap().federated_bundles.is_empty());
        let request = with_header(X509BundlesRequest {}, &["true"]);
        let mut bundles =
            Client::new(served.channel()).fetch_x509_bundles(request).await.unwrap().into_inner();
        assert_eq!(bundles.message().await.unwrap().unwrap().bundles.len(), 1);
        served.edit(&format!(
            "{TWO}\nfederation:\n  trustDomains: [{{ name: example-federated.org, bundleFile: \
             {file} }}]"
        ));
        let more = svids.message().await.unwrap().unwrap();
        assert_eq!((more.svids.len(), &more.federated_bundles[OTHER]), (2, &root));
        assert_ne!(more.svids[0].bundle, root, "each trust domain has its own");
        let more = bundles.message().await.unwrap().unwrap().bundles;
        assert_eq!((more.len(), &more[OTHER]), (2, &root));
        served.edit(TWO);
        let less = svids.message().await.unwrap().unwrap();
        assert_eq!((less.svids.len(), less.federated_bundles.len()), (2, 0));
        assert_eq!(bundles.message().await.unwrap().unwrap().bundles.len(), 1);
    });
}

/// What else it says is said to those of its own trust domain.
fn foreign_claims() {
    let dir = tempfile::tempdir().unwrap();
    let (file, _) = foreign(dir.path());
    let domain = "example-federated.org".parse().unwrap();
    let ca = EmbeddedCa::open(&dir.path().join("ca"), &domain, Duration::from_secs(60)).unwrap();
    let theirs = ca.sign_jwt(&"spiffe://example-federated.org/x".parse().unwrap(), &["db".into()]);
    let served = Served::start(&format!(
        "{TWO}\nfederation:\n  trustDomains: [{{ name: example-federated.org, bundleFile: {file} \
         }}]"
    ));
    block(async {
        let mut client = Client::new(served.channel());
        let of_one = JwtsvidRequest {
            audience: vec!["db".into()],
            spiffe_id: "spiffe://example.org/one".into(),
        };
        let ours = client.fetch_jwtsvid(with_header(of_one, &["true"])).await.unwrap();
        let ours = ours.into_inner().svids.remove(0).svid;
        let mut names = Vec::new();
        for svid in [ours, theirs.unwrap()] {
            let judge = ValidateJwtsvidRequest { audience: "db".into(), svid };
            let judged = client.validate_jwtsvid(with_header(judge, &["true"])).await.unwrap();
            let claims = judged.into_inner().claims.unwrap().fields;
            names.push(claims.into_keys().collect::<Vec<_>>());
        }
        assert_eq!(names, [vec!["aud", "exp", "iat", "sub"], vec!["aud", "exp", "sub"]]);
    });
}

fn banned() {
    let served = Served::start(TWO);
    block(async {
        let mut svids = stream(&served).await;
        let first = svids.message().await.unwrap().unwrap();
        let request = with_header(X509BundlesRequest {}, &["true"]);
        let mut bundles =
            Client::new(served.channel()).fetch_x509_bundles(request).await.unwrap().into_inner();
        let before = bundles.message().await.unwrap().unwrap().crl;
        assert_eq!(before, first.crl);
        let of_two = JwtsvidRequest {
            audience: vec!["db".into()],
            spiffe_id: "spiffe://example.org/two".into(),
        };
        let mut client = Client::new(served.channel());
        let token = client.fetch_jwtsvid(with_header(of_two, &["true"])).await.unwrap();
        let svid = token.into_inner().svids.remove(0).svid;
        let judge = ValidateJwtsvidRequest { audience: "db".into(), svid };
        client.validate_jwtsvid(with_header(judge.clone(), &["true"])).await.unwrap();
        served.ca(&["ban", "spiffe://example.org/two"]);
        let crl = loop {
            let crl = bundles.message().await.unwrap().unwrap().crl;
            if crl != before {
                break crl;
            }
        };
        assert_eq!(crl.len(), 1);
        let last = loop {
            let message = svids.message().await.unwrap().unwrap();
            if message.svids.len() == 1 && message.crl != before {
                break message;
            }
        };
        assert_eq!((&*last.svids[0].spiffe_id, last.crl), ("spiffe://example.org/one", crl));
        let audience = vec!["db".into()];
        let tokens = JwtsvidRequest { audience: audience.clone(), spiffe_id: String::new() };
        let tokens = client.fetch_jwtsvid(with_header(tokens, &["true"])).await.unwrap();
        assert_eq!(tokens.into_inner().svids.len(), 1);
        let two = JwtsvidRequest { audience, spiffe_id: "spiffe://example.org/two".into() };
        let refused = client.fetch_jwtsvid(with_header(two, &["true"])).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let refused = client.validate_jwtsvid(with_header(judge, &["true"])).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "a token of before the ban");
        assert!(refused.message().contains("is banned"), "{refused}");
        served.ca(&["ban", "spiffe://example.org/one"]);
        let end = loop {
            if let Err(end) = svids.message().await {
                break end;
            }
        };
        assert_eq!(end.code(), Code::PermissionDenied);
        served.ca(&["unban", "spiffe://example.org/one"]);
        wait_until_async("it is let in again", LIMIT, async || {
            client.fetch_x509svid(with_header(X509svidRequest {}, &["true"])).await.is_ok()
        })
        .await;
    });
}

fn reflection_needs_no_header() {
    let served = Served::start(TWO);
    block(async {
        let ask = |message_request| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message_request),
        };
        let asked = futures_util::stream::iter([
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol("SpiffeWorkloadAPI".into())),
        ]);
        let mut client = ServerReflectionClient::new(served.channel());
        let mut told = client.server_reflection_info(asked).await.unwrap().into_inner();
        let first = told.message().await.unwrap().unwrap().message_response;
        let Some(MessageResponse::ListServicesResponse(services)) = first else {
            panic!("{first:?}")
        };
        assert!(services.service.iter().any(|s| s.name == "SpiffeWorkloadAPI"), "{services:?}");
        let second = told.message().await.unwrap().unwrap().message_response;
        assert!(matches!(second, Some(MessageResponse::FileDescriptorResponse(_))), "{second:?}");
        // Without the header, so anybody may ask; but not for megabytes.
        let long = ask(MessageRequest::FileContainingSymbol("x".repeat(1 << 20)));
        let asked = futures_util::stream::iter([long]);
        let told = client.server_reflection_info(asked).await.unwrap().into_inner().message().await;
        assert!(matches!(told, Ok(None)), "it was read: {told:?}");
    });
}

fn one_process_has_its_share_of_streams() {
    let served = Served::start(TWO);
    block(async {
        let (mut one, mut other) = (Client::new(served.channel()), Client::new(served.channel()));
        let request = || with_header(X509svidRequest {}, &["true"]);
        let mut open = Vec::new();
        for _ in 0..60 {
            open.push(one.fetch_x509svid(request()).await.unwrap());
        }
        for _ in 0..4 {
            open.push(other.fetch_x509svid(request()).await.unwrap());
        }
        let shed = other.fetch_x509svid(request()).await.unwrap_err();
        assert_eq!(shed.code(), Code::Unavailable);
        assert!(shed.message().contains("of this process"), "{shed}");
        let again = open[0].get_mut().message().await;
        assert!(again.unwrap().is_some(), "those that are open go on");
        open.truncate(60);
        wait_until_async("there is room again", LIMIT, async || {
            let asked = other.fetch_x509svid(request()).await;
            asked.map_err(|shed| assert_eq!(shed.code(), Code::Unavailable)).is_ok()
        })
        .await;
    });
}

fn socket() {
    let mut served = Served::start(TWO);
    served.end(Signal::SIGKILL);
    assert!(served.socket().symlink_metadata().unwrap().file_type().is_socket());
    served.again();
    block(async { assert!(stream(&served).await.message().await.unwrap().is_some()) });
    served.end(Signal::SIGTERM);
    assert!(!served.socket().exists());
    // Somebody else's, put there since, stays.
    served.again();
    std::fs::remove_file(served.socket()).unwrap();
    let _theirs = std::os::unix::net::UnixListener::bind(served.socket()).unwrap();
    served.end(Signal::SIGTERM);
    assert!(served.socket().exists());
}
