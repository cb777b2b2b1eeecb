//! Streams that end, and what the next one is told.

use std::time::{Duration, Instant};

use tonic::Status;

use super::{
    fake_istiod::{ADDRESS, AUTHORIZATION},
    world::{BAD, World, pod, policy},
};

#[tokio::test]
async fn a_new_stream_is_told_what_is_held_and_policies_come_whole() {
    let mut world = World::new();
    let mut stream = world.istiod.stream().await;
    stream.first().await;
    stream.push(ADDRESS, vec![pod("a", "1"), pod("gone", "2"), pod(BAD, "3")], &[]).await;
    stream.push(AUTHORIZATION, vec![policy("mesh/p"), policy("mesh/gone")], &[]).await;
    stream.end();
    let mut stream = world.istiod.stream().await;
    let [address, authorization] = stream.first().await;
    let held = &address.initial_resource_versions;
    assert_eq!(held.get("Kubernetes//Pod/mesh/a").unwrap(), "1");
    let refused = held.get("Kubernetes//Pod/mesh/bad").map(String::as_str);
    assert_eq!((held.len(), refused), (3, Some("")), "in no version, so that it can be taken back");
    assert!(authorization.initial_resource_versions.is_empty());
    assert!(address.node.is_some() && authorization.node.is_some());
    stream.push(ADDRESS, Vec::new(), &["Kubernetes//Pod/mesh/gone"]).await;
    assert!(world.names().contains(&"mesh/gone".to_owned()), "until the policies have come");
    stream.push(AUTHORIZATION, vec![policy("mesh/p")], &[]).await;
    assert_eq!(world.names(), ["Kubernetes//Pod/mesh/a", "mesh/p"]);
    assert_eq!(world.counted("istio_xds_connection_terminations_total{reason=\"Complete\"} "), 1);
}

#[tokio::test]
async fn after_goaway_the_mesh_stays_and_the_next_istiod_is_followed() {
    let mut world = World::new();
    let mut stream = world.synced().await;
    stream.push(ADDRESS, vec![pod("a", "1")], &[]).await;
    world.istiod.go_away();
    stream.push(ADDRESS, vec![pod("b", "1")], &[]).await;
    stream.end();
    world.until("it is told", |status| status.connected.is_none()).await;
    assert_eq!(world.names().len(), 2);
    world.restart_at(world.istiod.addr);
    let mut stream = world.istiod.stream().await;
    let [address, _] = stream.first().await;
    assert_eq!(address.initial_resource_versions.len(), 2);
}

#[tokio::test]
async fn a_killed_istiod_is_noticed_and_its_state_kept() {
    let mut world = World::new();
    let mut stream = world.synced().await;
    stream.push(AUTHORIZATION, vec![policy("mesh/p")], &[]).await;
    let addr = world.kill();
    drop(stream);
    world.until("it is noticed", |status| status.error.is_some()).await;
    let status = world.status();
    assert!(status.is_synced && status.connected.is_none());
    assert_eq!(world.names(), ["mesh/p"]);
    world.restart_at(addr);
    world.synced().await;
    world.until("it is connected", |status| status.connected.is_some()).await;
    assert!(world.names().is_empty(), "no policy is left");
}

#[tokio::test]
async fn a_list_of_versions_that_is_refused_is_left_out_once() {
    let mut world = World::new();
    let mut stream = world.synced().await;
    stream.push(ADDRESS, vec![pod("a", "1"), pod("gone", "1")], &[]).await;
    stream.end();
    let mut stream = world.istiod.stream().await;
    assert_eq!(stream.first().await[0].initial_resource_versions.len(), 2);
    let refusal = "grpc: received message larger than max (5242880 vs. 4194304)";
    stream.fail(Status::resource_exhausted(refusal)).await;
    let mut stream = world.istiod.stream().await;
    assert!(stream.first().await[0].initial_resource_versions.is_empty());
    world.until("it is said", |status| status.left_out.is_some()).await;
    stream.push(ADDRESS, vec![pod("a", "1")], &[]).await;
    assert_eq!(world.names(), ["Kubernetes//Pod/mesh/a"]);
    let reason = "istio_xds_connection_terminations_total{reason=\"Error\"} ";
    assert_eq!(world.counted(reason), 1);
}

/// Nobody listens for an hour: the attempts get rarer, and never end, and the mesh stays as it was.
#[tokio::test]
async fn an_hour_without_istiod_is_survived_with_the_mesh_as_it_was() {
    let mut world = World::new();
    let mut stream = world.istiod.stream().await;
    stream.first().await;
    stream.push(ADDRESS, vec![pod("a", "1"), pod("gone", "1")], &[]).await;
    stream.push(AUTHORIZATION, vec![policy("mesh/p")], &[]).await;
    let before = (world.names(), world.status());
    let addr = world.kill();
    drop(stream);
    world.until("it is noticed", |status| status.connected.is_none()).await;
    let attempts = || {
        let reason = "istio_xds_connection_terminations_total{reason=\"ConnectionError\"} ";
        world.counted(reason)
    };
    tokio::time::pause();
    let (begun, mut made) = (tokio::time::Instant::now(), attempts());
    for minutes in (10..=60).step_by(10) {
        tokio::time::sleep_until(begun + Duration::from_secs(minutes * 60)).await;
        let more = attempts() - std::mem::replace(&mut made, attempts());
        // Of 7.5 to 15 s, and shorter ones at the start.
        assert!((40..=100).contains(&more), "{more} attempts up to minute {minutes}");
        let status = world.status();
        assert_eq!(world.names(), before.0);
        assert!(status.is_synced && status.error.is_some());
        let age =
            |applied: Option<Instant>| tokio::time::Instant::now().into_std() - applied.unwrap();
        for of in [&status.address, &status.authorization] {
            assert!(
                age(of.applied) >= Duration::from_secs(minutes * 60),
                "it is told how old it is"
            );
        }
        assert_eq!(status.address.applied, before.1.address.applied);
    }
    tokio::time::resume();
    world.restart_at(addr);
    let mut stream = world.istiod.stream().await;
    assert_eq!(stream.first().await[0].initial_resource_versions.len(), 2);
    stream.push(ADDRESS, vec![pod("a", "2")], &["Kubernetes//Pod/mesh/gone"]).await;
    stream.push(AUTHORIZATION, Vec::new(), &[]).await;
    assert_eq!(world.names(), ["Kubernetes//Pod/mesh/a"]);
    world.until("it is followed", |status| status.error.is_none()).await;
}

/// The stream is open, and nothing comes: the clock runs on at once.
#[tokio::test]
async fn a_control_plane_that_says_nothing_is_given_up_and_asked_again() {
    let mut world = World::new();
    let mut silent = world.istiod.stream().await;
    silent.first().await;
    tokio::time::pause();
    world
        .until("it is given up", |status| {
            status.error.as_ref().is_some_and(|error| error.contains("within 30 s"))
        })
        .await;
    tokio::time::resume();
    world.synced().await;
    world.until("it is synced", |status| status.is_synced).await;
}
