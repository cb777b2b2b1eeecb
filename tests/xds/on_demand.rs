//! A node that asks for workloads and services one by one.

use adit::{mesh::source::xds::Answer, rpc::discovery::Resource};
use tokio::time::Instant;

use super::{
    fake_istiod::{ADDRESS, AUTHORIZATION},
    world::{World, pod},
};

fn with_alias(resource: Resource, alias: &str) -> Resource {
    Resource { aliases: vec![alias.into()], ..resource }
}

#[tokio::test]
async fn many_wait_for_an_address_with_one_request() {
    let mut world = World::on_demand();
    let mut stream = world.istiod.stream().await;
    let [address, _] = stream.first().await;
    assert_eq!(address.resource_names_subscribe, ["*"]);
    assert_eq!(address.resource_names_unsubscribe, ["*"]);
    stream.push(AUTHORIZATION, Vec::new(), &[]).await;
    world.until("no Address is waited for", |status| status.is_synced).await;
    let (xds, looked) = (world.xds.clone(), Instant::now());
    let (first, second, third, ()) = tokio::join!(
        xds.demand("/10.244.1.11", looked),
        xds.demand("/10.244.1.11", looked),
        xds.demand("/10.200.0.1", looked),
        async {
            let mut asked = vec![
                stream.request().await.resource_names_subscribe,
                stream.request().await.resource_names_subscribe,
            ];
            asked.sort();
            assert_eq!(asked, [["/10.200.0.1"], ["/10.244.1.11"]]);
            let found = with_alias(pod("a-server", "1"), "/10.244.1.11");
            stream.push(ADDRESS, vec![found], &["/10.200.0.1"]).await;
        }
    );
    assert_eq!([first, second], [Some(Answer::Found); 2]);
    assert_eq!(third, Some(Answer::Absent));
    // Who has looked before that, and comes now, hears the same; the next request is another's.
    assert_eq!(world.xds.demand("/10.244.1.11", looked).await, Some(Answer::Found));
    assert_eq!(world.xds.demand("/10.200.0.1", looked).await, Some(Answer::Absent));
    world.xds.wonder("/10.244.1.12");
    assert_eq!(stream.request().await.resource_names_subscribe, ["/10.244.1.12"]);
    assert_eq!(world.names(), ["Kubernetes//Pod/mesh/a-server"]);
}

#[tokio::test]
async fn what_is_asked_for_while_there_is_no_stream_is_asked_for_on_the_next() {
    let mut world = World::on_demand();
    let mut stream = world.istiod.stream().await;
    stream.first().await;
    stream.push(AUTHORIZATION, Vec::new(), &[]).await;
    let xds = world.xds.clone();
    let (answer, ()) = tokio::join!(xds.demand("/10.244.1.11", Instant::now()), async {
        assert_eq!(stream.request().await.resource_names_subscribe, ["/10.244.1.11"]);
        stream.end();
        let mut stream = world.istiod.stream().await;
        stream.first().await;
        assert_eq!(stream.request().await.resource_names_subscribe, ["/10.244.1.11"]);
        stream.push(ADDRESS, vec![with_alias(pod("a", "1"), "/10.244.1.11")], &[]).await;
    });
    assert_eq!(answer, Some(Answer::Found));
}

#[tokio::test]
async fn an_answer_is_not_waited_for_for_ever() {
    let mut world = World::on_demand();
    let mut stream = world.istiod.stream().await;
    stream.first().await;
    stream.push(AUTHORIZATION, Vec::new(), &[]).await;
    let begun = std::time::Instant::now();
    assert_eq!(world.xds.demand("/10.244.1.11", Instant::now()).await, None);
    assert!(begun.elapsed().as_secs() < 30, "5 s, on a machine that is busy");
}

#[tokio::test]
async fn where_the_whole_mesh_is_followed_nothing_is_asked_for() {
    let world = World::new();
    assert_eq!(world.xds.demand("/10.244.1.11", Instant::now()).await, Some(Answer::Absent));
}
