//! What becomes of pods whose redirection is gone: in each family of addresses, and where adit is not
//! there to see it.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
};

use adit::sys::netns::Netns;

use super::{answers, is_named, refused_without_rules, refuses, world::World};
use crate::strict::outsider_reaches;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("announced::rules_that_are_gone_in_one_family_are_missed_and_the_other_goes_on", families),
    ("announced::a_pod_that_nobody_looks_after_any_more_is_not_refused_for_ever", lapsed),
    ("announced::a_pod_that_is_announced_with_another_namespace_leaves_nothing_in_the_old", remade),
    ("announced::rules_of_iptables_of_the_old_kind_are_missed_before_a_minute_is_over", legacy),
];

/// Has nft do this in one step.
fn nft(netns: &Netns, rules: &str) {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped());
    let mut nft = netns.run(|| nft.spawn()).unwrap().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{rules}");
}

/// Whether db's application answers plaintext from another node, at its address of this family.
fn answers_at(world: &World, to: &str) -> bool {
    outsider_reaches(&world.netns("spy"), to.parse::<SocketAddr>().unwrap())
}

const OVER_IPV4: &str = "10.77.0.2:8080";
const OVER_IPV6: &str = "[fd77::2]:8080";

/// What istio-cni redirects in both families.
const BOTH: &str = "
table inet istio-ambient-nat {
  chain prerouting { type nat hook prerouting priority dstnat; jump istio-prerouting; }
  chain output { type nat hook output priority -100; jump istio-output; }
  chain istio-prerouting {
    ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
    ip6 daddr != ::1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
  }
  chain istio-output {
    meta l4proto tcp ip daddr != 127.0.0.1 meta mark & 0xfff != 0x539 redirect to :15001
    meta l4proto tcp ip6 daddr != ::1 meta mark & 0xfff != 0x539 redirect to :15001
  }
}
";

fn families() {
    let world = World::new();
    let cni = world.cni();
    assert_eq!(world.adds(&cni, "db"), "");
    world.lab.wait("named", || is_named(&world, "are gone"));
    assert!(answers_at(&world, OVER_IPV4) && answers_at(&world, OVER_IPV6));
    nft(&world.netns("db"), BOTH);
    world.lab.wait("well", || world.pods.unprotected().is_empty());
    assert!(!answers_at(&world, OVER_IPV4) && !answers_at(&world, OVER_IPV6));

    let without_ipv6 = "
flush chain inet istio-ambient-nat istio-prerouting
add rule inet istio-ambient-nat istio-prerouting ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
";
    nft(&world.netns("db"), without_ipv6);
    world.lab.wait("named", || is_named(&world, "inbound plaintext over IPv6 is refused"));
    assert!(!answers_at(&world, OVER_IPV6), "it does not pass by");
    assert!(!answers_at(&world, OVER_IPV4), "that goes to adit, which refuses it");

    nft(&world.netns("db"), &format!("delete table inet istio-ambient-nat\n{BOTH}"));
    world.lab.wait("well again", || world.pods.unprotected().is_empty());
    assert!(!refuses(&world));
}

/// The time is over of what refuses plaintext in db.
fn time_is_over(world: &World) {
    let families = ["ipv4", "ipv6"].map(|family| {
        format!(
            "add element inet adit-refuse refused {{ {family} }}
delete element inet adit-refuse refused {{ {family} }}
add element inet adit-refuse refused {{ {family} timeout 1s }}
"
        )
    });
    nft(&world.netns("db"), &families.concat());
    let refused = || world.lab.tool("db", "nft list set inet adit-refuse refused");
    world.lab.wait("a second is over", || !refused().contains("timeout 1s"));
    // The kernel tells nobody; this it tells.
    nft(&world.netns("db"), "add table inet news\ndelete table inet news\n");
}

/// Whether plaintext is refused for long.
fn is_renewed(world: &World) -> bool {
    world.lab.tool("db", "nft list set inet adit-refuse refused").contains("ipv4 timeout 20m")
}

fn lapsed() {
    let mut world = World::new();
    refused_without_rules(&world);
    // So that this process waits for nobody when it ends.
    let cni = world.cni();
    assert!(!answers(&world) && is_renewed(&world));
    // Whoever is there refuses again …
    time_is_over(&world);
    world.lab.wait("refused again", || is_renewed(&world));
    assert!(!answers(&world));
    // … and istio-cni may take the pod out of the mesh while nobody is.
    world.ends();
    drop(cni);
    assert!(!answers(&world) && is_renewed(&world), "an end opens nothing");
    time_is_over(&world);
    world.lab.wait("admitted", || answers(&world));
    // Who is announced after all is refused as before.
    world.restart();
    let cni = world.cni();
    assert_eq!(world.adds(&cni, "db"), "");
    world.lab.wait("named", || is_named(&world, "is refused"));
    assert!(!answers(&world));
}

fn remade() {
    let world = World::new();
    refused_without_rules(&world);
    let old = world.netns("db");
    world.lab.remake("db", 2);
    let cni = world.cni();
    assert_eq!(world.adds(&cni, "db"), "", "under the same UID");
    let tables = || {
        let mut nft = Command::new("nft");
        let listed = old.run(|| nft.args(["list", "tables"]).output()).unwrap().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    };
    assert!(world.listens("db"));
    world.lab.wait("nothing is left", || !tables().contains("adit-refuse"));
}

fn legacy() {
    let world = World::new();
    let cni = world.cni();
    assert_eq!(world.adds(&cni, "db"), "");
    world.lab.wait("named", || is_named(&world, "are gone"));
    for rule in [
        "-N ISTIO_PRERT",
        "-N ISTIO_OUTPUT",
        "-A ISTIO_PRERT -p tcp -m tcp ! --dport 15008 -j REDIRECT --to-ports 15006",
        "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp -j REDIRECT --to-ports 15001",
        "-A PREROUTING -j ISTIO_PRERT",
        "-A OUTPUT -j ISTIO_OUTPUT",
    ] {
        world.lab.tool("db", &format!("iptables-legacy -t nat {rule}"));
    }
    // The last step of istio-cni, which the kernel tells.
    world.lab.tool("db", "ip rule add fwmark 0x111/0xfff lookup 100 priority 32764");
    world.lab.wait("well", || world.pods.unprotected().is_empty());
    world.lab.tool("db", "iptables-legacy -t nat -F PREROUTING");
    // Sooner than it looks without news.
    world.lab.wait("named", || is_named(&world, "is refused"));
    assert!(!answers(&world));
}
