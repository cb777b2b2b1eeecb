//! Who is followed, and what it is shown: names, roots and tokens, which change.

use adit::rpc::discovery::Resource;

use super::{
    fake_istiod::{ADDRESS, AUTHORIZATION, FakeIstiod, FakeStream},
    pki::{Ca, dns},
    world::{NAME, World, pod},
};

fn authorization(stream: &FakeStream) -> Option<&str> {
    stream.headers.get("authorization").map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn each_stream_shows_the_token_as_it_is_then() {
    let mut world = World::new();
    let stream = world.synced().await;
    assert_eq!(authorization(&stream), Some("Bearer a-token"));
    world.write("token", "");
    stream.end();
    let refused = |error: &String| error.contains("token file") && error.contains("is empty");
    world.until("it is said", |status| status.error.as_ref().is_some_and(refused)).await;
    world.write("token", "another-token\n");
    let stream = world.synced().await;
    assert_eq!(authorization(&stream), Some("Bearer another-token"));
}

#[tokio::test]
async fn each_connection_is_checked_with_the_roots_as_they_are_then() {
    let mut world = World::new();
    let stream = world.synced().await;
    let next = Ca::new("the next", None);
    let leaf = next.leaf("istiod", |params| params.subject_alt_names = vec![dns(NAME)]);
    let addr = world.kill();
    drop(stream);
    world.istiod = FakeIstiod::start_at(addr, &leaf);
    let refused = |error: &String| error.contains("certificate");
    world.until("it is refused", |status| status.error.as_ref().is_some_and(refused)).await;
    world.write("root-cert.pem", &next.pem);
    world.synced().await;
    world.until("it is followed", |status| status.connected.is_some()).await;
}

#[tokio::test]
async fn who_is_not_istiod_is_not_followed() {
    let mut world = World::new();
    let other = Ca::new("another", None).leaf("istiod", |params| {
        params.subject_alt_names = vec![dns(NAME)];
    });
    let stream = world.synced().await;
    let addr = world.kill();
    drop(stream);
    let _impostor = FakeIstiod::start_at(addr, &other);
    world
        .until("it is refused", |status| {
            status.error.as_ref().is_some_and(|error| error.contains("certificate"))
        })
        .await;
}

#[tokio::test]
async fn another_name_of_its_certificate_is_accepted_where_it_is_named() {
    let mut world = World::with(|config| {
        config.server.server.name = "istiod-canary.istio-system.svc".try_into().unwrap();
        config.server.alternative_name = Some(NAME.try_into().unwrap());
    });
    world.synced().await;
    world.until("it is synced", |status| status.is_synced).await;
}

/// As Cilium's agent is: no token, no cluster, no versions, everything on each stream.
#[tokio::test]
async fn who_has_no_versions_tells_all_of_it_on_each_stream() {
    let mut world = World::with(|config| {
        (config.server.token, config.server.cluster_id) = (None, None);
    });
    let bare = |name: &str, says: &str| Resource { version: String::new(), ..pod(name, says) };
    let mut stream = world.istiod.stream().await;
    assert_eq!(authorization(&stream), None);
    assert!(stream.headers.get("clusterid").is_none());
    stream.first().await;
    stream.push(ADDRESS, vec![bare("a", "1"), bare("b", "1"), bare("gone", "1")], &[]).await;
    stream.push(AUTHORIZATION, Vec::new(), &[]).await;
    stream.end();
    let mut stream = world.istiod.stream().await;
    assert!(stream.first().await[0].initial_resource_versions.is_empty());
    stream.push(ADDRESS, vec![bare("a", "1"), bare("b", "2")], &[]).await;
    let names = ["a", "b"].map(|name| format!("Kubernetes//Pod/mesh/{name}"));
    assert_eq!(world.names(), names);
    assert_eq!(world.version("b").as_deref(), Some("2"));
}
