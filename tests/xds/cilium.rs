//! Cilium's agent as the source of the mesh.

use std::sync::Arc;

use adit::credentials::Roots;

use super::{
    fake_cilium::{Endpoint, FakeCilium, Leaves},
    pki::Ca,
    wait::{LIMIT, wait_until_async},
    world::World,
};

const fn endpoint(pod_uid: &'static str, address: &'static str) -> Endpoint {
    let (name, namespace, node) = ("a-pod", "shop", "172.18.0.2");
    Endpoint { pod_uid, name, namespace, service_account: "an-account", address, node }
}

/// A node that follows an agent which knows these pods.
fn following(endpoints: &[Endpoint]) -> (World, FakeCilium) {
    let bootstrap = Ca::self_signed("localhost");
    let signs = (Arc::new(Ca::new("the cluster", None)), Leaves::Bare);
    let agent = FakeCilium::start_at("127.0.0.1:0".parse().unwrap(), &bootstrap, signs, endpoints);
    let world = World::with(|config| {
        let server = &mut config.server;
        (server.token, server.cluster_id, server.headers) = Default::default();
        server.roots = Roots::Pem(bootstrap.pem.clone());
        server.server.port = agent.addr.port();
        server.server.name = "localhost".try_into().unwrap();
    });
    (world, agent)
}

async fn has(world: &World, uids: &[&str]) {
    wait_until_async(&format!("{uids:?} are in force"), LIMIT, async || world.names() == uids)
        .await;
}

#[tokio::test]
async fn its_pods_are_known_by_their_uids_and_its_empty_word_on_policies_is_enough() {
    let (world, agent) = following(&[endpoint("uid-1", "10.0.0.1"), endpoint("uid-2", "fd00::2")]);
    world.until("it is synced", |status| status.is_synced).await;
    has(&world, &["uid-1", "uid-2"]).await;
    agent.upserts(&endpoint("uid-3", "10.0.0.3"));
    has(&world, &["uid-1", "uid-2", "uid-3"]).await;
    agent.removes("uid-1");
    has(&world, &["uid-2", "uid-3"]).await;
    assert_eq!(agent.errors(), Vec::<String>::new());
}

/// A pod whose endpoint names no owner.
#[tokio::test]
async fn a_pod_without_a_uid_is_refused_and_the_others_are_in_force() {
    let (world, agent) = following(&[endpoint("", "10.0.0.1"), endpoint("uid-2", "10.0.0.2")]);
    world.until("it is synced", |status| status.is_synced).await;
    has(&world, &["uid-2"]).await;
    wait_until_async(
        "the agent hears of it",
        LIMIT,
        async || matches!(&agent.errors()[..], [nack] if nack.starts_with("NACK: ")),
    )
    .await;
}
