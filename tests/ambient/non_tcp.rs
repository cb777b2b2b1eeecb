//! What is not TCP, where the operator of a node does not let it pass.

use std::path::Path;

use hickory_proto::op::ResponseCode;

use crate::{
    datagrams::{are_answered, echo},
    harness::Test,
    mounted::Mounted,
    names::ask,
    world::World,
};

pub(crate) const TESTS: &[Test] =
    &[("non_tcp::datagrams_of_pods_are_dropped_where_the_operator_says_so_but_for_names", dropped)];

fn dropped() {
    // As in an image, which has no names of protocols.
    let names = "/etc/protocols";
    let no_names = Path::new("/dev/null");
    let _names = Path::new(names).exists().then(|| Mounted::over(names, no_names));
    let world = World::running_with(&[("ADIT_NON_TCP", "drop")]);
    let (db, spy) = (world.lab.netns("db"), world.lab.netns("spy"));
    for netns in [&db, &spy] {
        echo(netns, "0.0.0.0:9000");
    }
    assert!(!are_answered(&spy, "10.77.0.2:9000") && !are_answered(&db, "10.77.0.4:9000"));
    let known = (ResponseCode::NoError, vec!["10.96.0.2".to_owned()]);
    assert_eq!(ask(&world, "db", "db.shop.svc.cluster.local."), known);
    world.answered("web", "10.96.0.2:80");
    for direction in ["inbound", "outbound"] {
        world.first.counts(
            &world.lab,
            &format!(
                "adit_pod_non_tcp_packets_total{{ … direction=\"{direction}\" … \
                 protocol=\"udp\" … verdict=\"dropped\""
            ),
        );
    }
    let dump = world.first.dump(&world.lab);
    assert_eq!(dump["config"]["nonTcp"], "drop");
    let of_db = dump["nonTcp"].as_array().unwrap().iter().find(|pod| pod["pod"] == "shop/db");
    assert_eq!(of_db.unwrap()["verdict"], "drop", "{dump}");
}
