//! What is not TCP: it passes by, is counted, or is dropped, as the mesh file says.

use nix::sys::signal::Signal;

use crate::{
    datagrams::{answer, are_answered, echo, is_answered, is_answered_with_mark},
    lab::{Lab, ip},
    mesh::{PODS, allow},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("non_tcp::it_is_dropped_where_the_file_says_so_and_what_ip_and_dns_need_is_not", dropped),
    ("non_tcp::the_verdict_of_one_pod_is_edited_and_the_others_stay", edited),
    ("non_tcp::what_somebody_removes_is_restored_and_a_stop_opens_nothing", closed),
    ("non_tcp::it_is_counted_where_the_file_says_so_and_passes", counted),
];

/// Pods, and somebody outside of the mesh at 10.77.0.200 with a name server at 10.77.0.201. There are
/// applications at port 9000 of db and outside, and one at db's port 53.
fn world(capture: &'static str) -> Lab {
    let mut lab = Lab::new(PODS);
    lab.capture = capture;
    for address in ["10.77.0.200/24", "10.77.0.201/24", "fd77::200/64 nodad"] {
        ip(&format!("-n bridge addr add {address} dev br0"));
    }
    lab.echo("db", 8080);
    let (db, outside) = (lab.netns("db"), lab.netns("bridge"));
    for (netns, at) in [
        (&db, "[::]:9000"),
        (&db, "[::]:53"),
        (&outside, "10.77.0.200:9000"),
        (&outside, "10.77.0.201:53"),
        (&outside, "[fd77::200]:53"),
    ] {
        echo(netns, at);
    }
    lab
}

/// Whether db's application is reached from outside.
fn is_reached(lab: &Lab) -> bool {
    are_answered(&lab.netns("bridge"), "10.77.0.2:9000")
}

/// Whether a pod has the table.
fn is_judged(lab: &Lab, pod: &str) -> bool {
    lab.tool(pod, "nft list tables").contains("adit-non-tcp")
}

fn dropped() {
    let mut lab = world("rules: nft, nonTcp: drop");
    assert!(is_reached(&lab), "before");
    lab.start(&allow(&["web"]));
    let (db, outside) = (lab.netns("db"), lab.netns("bridge"));
    for to in ["10.77.0.2:9000", "[fd77::2]:9000"] {
        assert!(!are_answered(&outside, to), "{to}");
    }
    // A port that anybody can send from is no answer.
    assert!(!is_answered(&outside, "10.77.0.200:53", "10.77.0.2:9000"));
    assert!(!are_answered(&db, "10.77.0.200:9000"), "nor what the pod sends");
    // adit's own mark may be set by an application that has CAP_NET_RAW.
    assert!(!is_answered_with_mark(&db, 0x539, "10.77.0.200:9000"));
    assert!(lab.tool("bridge", "ping -c 1 -W 1 10.77.0.2").contains(" 0 received"));
    assert!(lab.tool("db", "ping -c 1 -W 1 10.77.0.200").contains(" 0 received"));

    // DNS both ways, over IPv6 with neighbours to be found, what stays in the pod, and TCP.
    lab.tool("db", "ip -6 neigh flush dev eth0");
    lab.tool("bridge", "ip -6 neigh flush dev br0");
    for to in ["10.77.0.2:53", "[fd77::2]:53"] {
        assert!(are_answered(&outside, to), "{to}");
    }
    for to in ["10.77.0.201:53", "[fd77::200]:53", "127.0.0.1:9000", "10.77.0.2:9000", "[::1]:9000"]
    {
        assert!(are_answered(&db, to), "{to}");
    }
    let unreachable = answer(&db, "0.0.0.0:0", "10.77.0.200:53").unwrap_err();
    assert_eq!(unreachable, std::io::ErrorKind::ConnectionRefused, "ICMP says so");
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());

    for (direction, protocol) in [("inbound", "udp"), ("outbound", "udp"), ("inbound", "icmp")] {
        lab.counts(&format!(
            "adit_pod_non_tcp_packets_total{{direction=\"{direction}\",protocol=\"{protocol}\",\
             verdict=\"dropped\"}}"
        ));
    }
    let dump = lab.shows("127.0.0.1:15000", "GET /config_dump", "\"nonTcp\"");
    let dump: String = dump.split_whitespace().collect();
    assert!(dump.contains("{\"pod\":\"shop/db\",\"verdict\":\"drop\",\"packets\":{\"inbound\":{"));
}

fn edited() {
    let mut lab = world("rules: nft, nonTcp: drop");
    lab.start(&allow(&["web"]));
    assert!(!is_reached(&lab));
    let passing = allow(&["web"]).replace("netns: db,", "netns: db, nonTcp: pass,");
    lab.write_mesh(&passing);
    lab.wait("it passes", || is_reached(&lab));
    assert!(!is_judged(&lab, "db") && is_judged(&lab, "web") && is_judged(&lab, "spy"));
    lab.write_mesh(&allow(&["web"]));
    lab.wait("it is dropped", || !is_reached(&lab));
}

fn closed() {
    let mut lab = world("rules: nft, nonTcp: drop");
    lab.start(&allow(&["web"]));
    lab.tool("db", "nft delete table inet adit-non-tcp");
    lab.wait("restored", || is_judged(&lab, "db"));
    assert!(!is_reached(&lab));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        lab.signal(signal);
        lab.stop_dead();
        assert!(!is_reached(&lab), "after {signal}");
        lab.start(&allow(&["web"]));
    }
    assert!(lab.stop().success());
    lab.capture = "rules: nft";
    lab.start(&allow(&["web"]));
    assert!(is_reached(&lab) && !is_judged(&lab, "db"), "who asks for nothing has nothing left");
}

fn counted() {
    let mut lab = world("rules: nft, nonTcp: count");
    lab.start(&allow(&["web"]));
    let (db, outside) = (lab.netns("db"), lab.netns("bridge"));
    assert!(are_answered(&outside, "10.77.0.2:53") && are_answered(&db, "10.77.0.201:53"));
    for _ in 0..2 {
        assert!(is_answered(&outside, "10.77.0.200:0", "10.77.0.2:9000"));
    }
    for direction in ["inbound", "outbound"] {
        lab.counts(&format!(
            "adit_pod_non_tcp_packets_total{{direction=\"{direction}\",protocol=\"udp\",\
             verdict=\"passed\"}} 2\n"
        ));
    }
}
