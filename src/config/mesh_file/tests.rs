use super::*;
use crate::mesh::AppHop;

const EXAMPLE: &str = "
trustDomain: cluster.local
node: node-a
mtls: strict
ca:
  embedded: { dir: /var/lib/adit/ca, svidLifetime: 1h }
capture: { rules: nft }
workloads:
- { name: web, namespace: shop, serviceAccount: web, addresses: [10.77.0.1], node: node-a, netns: shop-web }
- { name: db,  namespace: shop, serviceAccount: db,  addresses: [10.77.0.2], node: node-b, labels: { app: db } }
- { name: old, namespace: shop, addresses: [10.77.0.9], protocol: tcp }
services:
- hostname: db.shop.svc.cluster.local
  addresses: [10.96.0.10]
  ports: [{ port: 5432, targetPort: 5432 }]
  workloads: [shop/db]
policies:
- metadata: { name: db-from-web, namespace: shop }
  spec:
    selector: { matchLabels: { app: db } }
    action: ALLOW
    rules:
    - from: [{ source: { principals: [cluster.local/ns/shop/sa/web] } }]
      to: [{ operation: { ports: [\"5432\"] } }]
";

/// A policy that decides nothing says so itself, in exactly Istio's word.
#[test]
fn only_true_is_a_dry_run() {
    for (said, decides) in
        [("", true), ("\"false\"", true), ("\"True\"", true), ("\"true\"", false)]
    {
        let annotations = format!("annotations: {{ istio.io/dry-run: {said} }}");
        let annotations = if said.is_empty() { String::new() } else { format!(", {annotations}") };
        let text = EXAMPLE.replace(
            "namespace: shop }\n  spec",
            &format!("namespace: shop{annotations} }}\n  spec"),
        );
        assert_eq!(text.contains("dry-run"), !said.is_empty());
        let checked = parse("mesh.yaml", &text).unwrap();
        assert_eq!(
            checked.mesh.clone().store().now().rules("shop/db").allows(),
            decides,
            "{said:?}"
        );
    }
}

#[test]
fn the_example_of_the_design_is_legal() {
    let checked = parse("mesh.yaml", EXAMPLE).unwrap();
    let local: Vec<_> = checked.local_workloads().iter().map(|w| w.uid.to_string()).collect();
    assert_eq!((local, checked.warnings), (vec!["shop/web".to_owned()], vec![]));
    let options = crate::pods::capture::Options::default();
    // What protects the pods stays when adit stops, unless the file says otherwise.
    assert_eq!(checked.capture, Capture::Nft { options, remove_on_stop: false });
    assert!(!checked.mesh.clone().store().now().rules("shop/db").is_empty());
    assert!(checked.mesh.clone().store().now().rules("shop/web").is_empty());
}

/// Whoever is refused by a rule finds it without counting, also after an edit above it, which is no
/// change of the policy.
#[test]
fn a_rule_says_in_which_line_it_stands() {
    let mut store = parse("mesh.yaml", EXAMPLE).unwrap().mesh.store();
    let place = |store: &crate::mesh::Store| {
        let named = format!("{:?}", store.now().rules("shop/db"));
        let place = store.now().dump().policies[0].places[0].clone();
        let (file, line) = place.split_once(':').unwrap();
        let compiled = format!("Place {{ file: {file:?}, line: {line} }}");
        assert!(named.contains(&compiled), "{compiled} in {named}");
        place
    };
    assert_eq!(place(&store), "mesh.yaml:23");
    let edited = format!("# One more line.\n{EXAMPLE}");
    parse("mesh.yaml", &edited).unwrap().mesh.apply(&mut store);
    assert_eq!(place(&store), "mesh.yaml:24");
    assert!(store.take_changes().is_empty(), "nobody's rules are others");
}

#[test]
fn every_fault_is_reported_at_once_with_line_key_and_suggestion() {
    let text = "
trustDomain: Cluster.Local
mtls: strickt
ca: { istiod: {} }
capture: { rules: iptables }
workloads:
- { name: web, adresses: [10.0.0.1] }
- { name: db, addresses: [10.0.0.300, 10.0.0.2, 10.0.0.2] }
services:
- hostname: db.shop.svc
  ports: [{ port: 15008 }]
  workloads: [default/dc]
policies:
- metadata: { name: p }
  spec:
    action: AUDIT
- metadata: { name: q }
  spec:
    rules:
    - from: [{ source: { principals: [spiffe://cluster.local/ns/a/sa/b] } }]
      to: [{ operation: { methods: [GET] } }]
";
    let faults = parse("mesh.yaml", text).unwrap_err().to_string();
    for expected in [
        "mesh.yaml:2:14: trustDomain:",
        "3:7: mtls: \"strickt\": must be strict or permissive; did you mean strict?",
        "4:15: ca.istiod: address is missing",
        "5:19: capture.rules:",
        "7:16: workloads[0].adresses: unknown key; did you mean addresses?",
        "8:27: workloads[1].addresses[0]: \"10.0.0.300\":",
        "is already an address of workload default/db",
        "11:19: services[0].ports[0].port: port 15008 is adit's own",
        "there is no workload default/dc; did you mean default/db?",
        "\"AUDIT\": must be ALLOW or DENY",
        "without spiffe://; did you mean cluster.local/ns/a/sa/b?",
        "policies[1].spec.rules[0].to[0].operation.methods: is about HTTP (L7)",
    ] {
        assert!(faults.contains(expected), "{expected}\nis not in\n{faults}");
    }
}

#[test]
fn what_is_not_yaml_or_not_a_mesh_says_so() {
    for (text, expected) in [
        ("", "expected one YAML document"),
        ("a: [", "not YAML"),
        ("[]", "expected a mapping"),
        ("apiVersion: v1\nkind: PeerAuthentication\n", "2:7: kind: this is a Kubernetes resource"),
        (
            "trustDomain: td\ntrustDomain: td",
            "2:1: not YAML: trustDomain is there twice, first in line 1",
        ),
    ] {
        let faults = parse("f", text).unwrap_err().to_string();
        assert!(faults.contains(expected), "{text:?}: {faults}");
    }
}

/// Each of these reads as something wider than it looks, so none is taken.
#[test]
fn what_would_silently_mean_something_else_is_a_fault() {
    let rule = "    - from: [{ source: { principals: [cluster.local/ns/shop/sa/web] } }]";
    for (from, to, expected) in [
        (rule, "    - from: []", "rules[0].from: is empty"),
        (rule, "    - when: [{ key: source.principal }]", "neither values nor notValues"),
        ("matchLabels: { app: db }", "matchLabels: { 1: x }", "a key must be a string"),
        ("labels: { app: db }", "labels: { 1: x }", "a key must be a string"),
        (", netns: shop-web", "", "would redirect the traffic of adit's own network namespace"),
        (
            "node: node-a\nmtls",
            "pool: { idle: 0s }\nnode: node-a\nmtls",
            "pool.idle: must be at least 1s",
        ),
        (
            "node: node-a\nmtls",
            "limits: { floodBurst: 1 }\nnode: node-a\nmtls",
            "limits.floodBurst: expected 100 to 10000000",
        ),
        ("node: node-a\nmtls", "tls: { aead: openssl }\nnode: node-a\nmtls", "tls.aead: "),
        ("targetPort: 5432 }", "targetPort: 5432 }, { port: 5432 }", "port 5432 already exists"),
        ("targetPort: 5432 }", "protocol: UDP }", "\"UDP\": must be TCP"),
        ("[10.77.0.9]", "[127.0.0.1]", "not an address that others can reach"),
        ("[10.77.0.9]", "['::ffff:10.77.0.1']", "already an address of workload shop/web"),
        ("svidLifetime: 1h", "svidLifetime: 4000000000y", "longer than ten years"),
    ] {
        let text = EXAMPLE.replace(from, to);
        assert_ne!(text, EXAMPLE, "{from}");
        match parse("f", &text) {
            Ok(_) => panic!("{to} was taken"),
            Err(faults) => assert!(faults.to_string().contains(expected), "{to}: {faults}"),
        }
    }
}

#[test]
#[cfg_attr(not(feature = "sockmap"), ignore = "needs the cargo feature sockmap")]
fn the_hop_to_applications_is_chosen_for_all_or_for_one() {
    let file = "trustDomain: td
ca: { embedded: { dir: /ca } }
capture: { rules: nft, appHop: sockmap }
workloads:
- { name: a, addresses: [10.0.0.1], netns: a }
- { name: b, addresses: [10.0.0.2], netns: b, appHop: tcp }
";
    let hops = |text: &str| -> Vec<_> {
        parse("m", text).unwrap().local_workloads().iter().map(|w| w.app_hop()).collect()
    };
    assert_eq!(hops(file), [AppHop::Sockmap, AppHop::Tcp]);
    assert_eq!(
        hops(&file.replace(", appHop: sockmap }", " }")),
        [AppHop::Tcp; 2],
        "off by default"
    );
    let faults = parse("m", &file.replace("appHop: tcp", "appHop: ebpf")).unwrap_err().to_string();
    assert!(faults.contains("must be tcp or sockmap"), "{faults}");
}

#[test]
fn what_becomes_of_what_is_not_tcp_is_said_for_all_or_for_one_where_adit_has_rules() {
    let file = "trustDomain: td
ca: { embedded: { dir: /ca } }
capture: { rules: nft, nonTcp: drop }
workloads:
- { name: a, addresses: [10.0.0.1], netns: a }
- { name: b, addresses: [10.0.0.2], netns: b, nonTcp: count }
";
    let verdicts = |text: &str| -> Vec<_> {
        parse("m", text).unwrap().local_workloads().iter().map(|w| w.non_tcp()).collect()
    };
    assert_eq!(verdicts(file), [NonTcp::Drop, NonTcp::Count]);
    let unsaid = file.replace(", nonTcp: drop }", " }");
    assert_eq!(verdicts(&unsaid), [NonTcp::Pass, NonTcp::Count], "it passes by default");
    for (from, to, expected) in [
        ("nonTcp: count", "nonTcp: deny", "must be pass, count or drop"),
        (
            "rules: nft",
            "rules: none",
            "a has `nonTcp: drop`, which needs capture rules made by adit",
        ),
    ] {
        let faults = parse("m", &file.replace(from, to)).unwrap_err().to_string();
        assert!(faults.contains(expected), "{faults}");
    }
}

#[test]
fn limits_reach_the_tunnels() {
    let limits = "limits: { tunnels: 7, streams: 8, heldBytes: 131072, floodBurst: 900, \
                  callerTunnels: 5, callerStreams: 9, callerHeldBytes: 2097152, \
                  callerTunnelsPerSecond: 3 }\ntls: { aead: ring }\n";
    let text = EXAMPLE.replace("node: node-a\nmtls", &format!("{limits}node: node-a\nmtls"));
    let settings = parse("f", &text).unwrap().settings;
    assert_eq!(settings.aead, crate::tls::record::AeadSetting::Ring);
    let tunnel = settings.tunnel;
    let held = (tunnel.limits.stream_held, tunnel.limits.flood.burst);
    assert_eq!((tunnel.max_tunnels, tunnel.limits.max_streams), (7, 8));
    let caller = tunnel.caller;
    assert_eq!((caller.tunnels, caller.streams, caller.held), (5, 9, 2 << 20));
    assert_eq!(caller.new_tunnels, 3);
    assert_eq!((held, tunnel.limits.flood.per_second), ((131_072, 900), 400));
}

#[test]
fn two_pods_of_one_process_never_share_a_namespace() {
    let text = EXAMPLE.replace("node: node-b,", "node: node-a, netns: shop-web,");
    let faults = parse("f", &text).unwrap_err().to_string();
    assert!(faults.contains("shop/web and shop/db both have netns shop-web"), "{faults}");
}

#[test]
fn several_nodes_need_a_name_for_this_one() {
    let text = EXAMPLE.replace("node: node-a\nmtls", "mtls");
    assert!(parse("f", &text).unwrap_err().to_string().contains("node is missing"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}", at in 0usize..900, byte in "[ -~\n]") {
        let _ = parse("f", &text);
        let mut mutated = EXAMPLE.to_owned();
        mutated.insert_str(at.min(EXAMPLE.len()), &byte);
        let _ = parse("f", &mutated);
    }
}

#[test]
fn what_is_missing_hides_no_other_error_of_the_same_thing() {
    let text = "\
trustDomain: td
ca: { embedded: { dir: /ca } }
workloads:
- { namespace: shop, protocol: hbon, netns: '', labels: [] }
policies:
- metadata: { namespace: shop }
  spec:
    action: ALOW
    selector: {}
    rules: [{ from: [] }]
- spec: { action: ALOW }
";
    let faults = parse("m", text).unwrap_err().to_string();
    for expected in [
        "workloads[0]: name is missing",
        "workloads[0].protocol: \"hbon\"",
        "workloads[0].netns: expected a string",
        "workloads[0].labels: expected a mapping",
        "policies[0].metadata: name is missing",
        "policies[0].spec.action: \"ALOW\"",
        "policies[0].spec.selector: matchLabels is missing",
        "policies[0].spec.rules[0].from: is empty",
        "policies[1]: metadata is missing",
        "policies[1].spec.action: \"ALOW\"",
    ] {
        assert!(faults.contains(expected), "{expected}\nis not in\n{faults}");
    }
}
