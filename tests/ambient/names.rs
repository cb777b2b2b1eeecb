//! Names that pods ask for, answered by the node.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};

use crate::{harness::Test, resources::service, world::World};

pub(crate) const TESTS: &[Test] =
    &[("names::services_of_the_mesh_are_answered_from_it_as_it_changes", answered)];

/// What a pod's resolver is told, whatever server it asks.
pub(crate) fn ask(world: &World, pod: &str, name: &str) -> (ResponseCode, Vec<String>) {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let open = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let socket = world.lab.netns(pod).run(open).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.connect("10.96.0.10:53").unwrap();
    socket.send(&query.to_vec().unwrap()).unwrap();
    let mut room = [0; 1232];
    let length = crate::wait::again(|| socket.recv(&mut room)).expect("an answer in time");
    let answer = Message::from_vec(&room[..length]).unwrap();
    let records = answer.answers.iter().map(|record| record.data.to_string()).collect();
    (answer.metadata.response_code, records)
}

fn answered() {
    let mut world = World::running();
    for pod in ["web", "far"] {
        for name in ["db.shop.svc.cluster.local.", "db.shop.svc.", "db.shop.", "db."] {
            let expected = (ResponseCode::NoError, vec!["10.96.0.2".to_owned()]);
            assert_eq!(ask(&world, pod, name), expected, "{name} for {pod}");
        }
    }
    world.istiod.says(vec![service("db", "10.96.0.22")]);
    assert_eq!(ask(&world, "web", "db.shop.svc.cluster.local.").1, ["10.96.0.22"]);
    world.answered("web", "10.96.0.22:80");
}
