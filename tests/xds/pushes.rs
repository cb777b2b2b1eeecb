//! What is pushed, and what the control plane is answered.

use adit::{mesh::source::xds::TypeUrl, rpc::discovery::DeltaDiscoveryResponse};

use super::{
    fake_istiod::{ADDRESS, AUTHORIZATION},
    world::{BAD, World, pod, policy},
};

#[tokio::test]
async fn a_node_is_synced_once_both_types_are_applied() {
    let mut world = World::new();
    let mut stream = world.istiod.stream().await;
    let header = |name: &str| stream.headers.get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(header("authorization"), "Bearer a-token", "without the end of its line");
    assert_eq!((header("clusterid"), header("x-extra")), ("Kubernetes".into(), "1".into()));
    let first = stream.first().await;
    for request in &first {
        assert!(request.node.as_ref().unwrap().id.starts_with("ztunnel~10.244.1.2~adit-n1."));
    }
    stream.push(ADDRESS, vec![pod("a", "1")], &[]).await;
    assert!(!world.status().is_synced, "a policy may forbid what is known so far");
    let ack = stream.push(AUTHORIZATION, vec![policy("mesh/p")], &[]).await;
    assert_eq!((ack.node, ack.error_detail), (None, None));
    world.until("it is synced", |status| status.is_synced).await;
    assert_eq!(world.names(), ["Kubernetes//Pod/mesh/a", "mesh/p"]);
    let status = world.status();
    assert_eq!(status.of(TypeUrl::Address).resources, 1);
    assert!(status.address.version.ends_with("/6") && status.connected.is_some());
    let counted = format!("istio_xds_message_total{{url=\"{ADDRESS}\"}} ");
    assert_eq!(world.counted(&counted), 1);
}

#[tokio::test]
async fn one_bad_resource_of_many_is_refused_and_the_rest_are_in_force() {
    let mut world = World::new();
    let mut stream = world.synced().await;
    let pods = ["a", BAD, "c"].map(|name| pod(name, "1"));
    let nack = stream.push(ADDRESS, pods.to_vec(), &[]).await.error_detail.unwrap();
    let reason = "Kubernetes//Pod/mesh/bad: tunnel_protocol LEGACY_ISTIO_MTLS is not supported";
    assert_eq!((nack.code, &*nack.message), (3, reason));
    assert_eq!(world.names(), ["Kubernetes//Pod/mesh/a", "Kubernetes//Pod/mesh/c"]);
    world.until("status names it", |status| status.address.rejected.len() == 1).await;
    let ack = stream.push(ADDRESS, Vec::new(), &["Kubernetes//Pod/mesh/bad"]).await;
    assert_eq!(ack.error_detail, None);
    world.until("status forgets it", |status| status.address.rejected.is_empty()).await;
}

#[tokio::test]
async fn types_and_removals_that_nobody_asked_for_are_acknowledged() {
    let mut world = World::new();
    let mut stream = world.synced().await;
    let other = "type.googleapis.com/envoy.config.listener.v3.Listener";
    let ack = stream.push(other, vec![pod("a", "1")], &["x"]).await;
    assert_eq!(ack.error_detail, None);
    let ack = stream.push(AUTHORIZATION, Vec::new(), &["mesh/never-sent"]).await;
    assert_eq!(ack.error_detail, None);
    assert!(world.names().is_empty());
    assert_eq!(world.counted("istio_xds_message_total{url=\"unknown\"} "), 1);
}

#[tokio::test]
async fn fifteen_thousand_resources_in_one_message_leave_others_their_turn() {
    let mut world = World::new();
    let mut stream = world.istiod.stream().await;
    stream.first().await;
    let pods = (0..15_000).map(|n| pod(&format!("pod-{n}"), "1")).collect();
    let mut turns = 0;
    tokio::select! {
        ack = stream.push(ADDRESS, pods, &[]) => assert_eq!(ack.error_detail, None),
        () = async { loop { turns += 1; tokio::task::yield_now().await } } => {}
    }
    assert!(turns > 15_000 / 256, "{turns} turns");
    assert_eq!(world.names().len(), 15_000);
    world.until("status counts them", |status| status.address.resources == 15_000).await;
}

#[tokio::test]
async fn a_storm_of_ten_thousand_changes_ends_where_the_control_plane_is() {
    let mut world = World::new();
    let mut stream = world.synced().await;
    for n in 0..10_000_u32 {
        let response = DeltaDiscoveryResponse {
            type_url: ADDRESS.into(),
            resources: vec![pod(&format!("pod-{}", n % 100), &format!("{n}"))],
            removed_resources: vec![format!("Kubernetes//Pod/mesh/pod-{}", (n + 50) % 100)],
            ..DeltaDiscoveryResponse::default()
        };
        let nonce = stream.send(response).await;
        let answer = stream.request().await;
        assert_eq!((answer.response_nonce, answer.error_detail), (nonce, None));
    }
    let is_last = |n: u32| world.version(&format!("pod-{}", n % 100)) == Some(n.to_string());
    assert!((9950..10_000).all(is_last));
    assert_eq!(world.names().len(), 50);
}
