//! Policies of a mesh file that name a port of a service behind which workloads listen on another.

use std::collections::BTreeSet;

use crate::{
    mesh::{Service, Workload, source::file::selects},
    policy::{Policy, Rule},
};

/// One text for each port that `policy` names and on which a service is called, but on which no
/// workload that it applies to listens: policies are matched at the workload's port.
pub(super) fn not_of_workloads(
    policy: &Policy,
    workloads: &[Workload],
    services: &[Service],
) -> Vec<String> {
    let named = policy.rules.iter().flat_map(Rule::all_matches);
    let named: BTreeSet<u16> = named
        .flat_map(|m| m.destination_ports.any.iter().chain(&m.destination_ports.none))
        .copied()
        .collect();
    if named.is_empty() {
        return Vec::new();
    }
    let selected: Vec<_> = workloads.iter().filter(|w| selects(policy, &w.template)).collect();
    let is_behind = |service: &&Service| selected.iter().any(|w| service.is_backed_by(w));
    let behind: Vec<&Service> = services.iter().filter(is_behind).collect();
    let is_listened = |port: &u16| {
        behind.iter().any(|service| service.ports.iter().any(|p| p.target_port == *port))
    };
    let told = |port: u16| {
        let (service, ports) = behind
            .iter()
            .find_map(|service| Some((service, service.ports.iter().find(|p| p.port == port)?)))?;
        let (hostname, target) = (&service.hostname, ports.target_port);
        Some(format!(
            "policy {} names port {port} of service {hostname}, but the workloads behind it listen \
             on {target}, which is what policies are matched with; write \"{target}\"",
            policy.key()
        ))
    };
    named.into_iter().filter(|port| !is_listened(port)).filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    fn warnings(named: u16, ports: &str, selector: &str) -> Vec<String> {
        let text = format!(
            "trustDomain: td
ca: {{ embedded: {{ dir: /ca }} }}
workloads:
- {{ name: db, namespace: shop, addresses: [10.0.0.1], labels: {{ app: db }} }}
services:
- hostname: db.shop.svc
  ports: [{ports}]
  workloads: [shop/db]
policies:
- metadata: {{ name: p, namespace: shop }}
  spec:
    selector: {{ matchLabels: {{ app: {selector} }} }}
    rules:
    - to: [{{ operation: {{ ports: ['{named}'] }} }}]
"
        );
        let warnings = parse("m", &text).unwrap().warnings;
        warnings.into_iter().map(|w| w.message).filter(|m| m.contains("names port")).collect()
    }

    #[test]
    fn a_policy_that_names_the_port_of_the_service_is_told_that_of_its_workloads() {
        let (other, same) = ("{ port: 80, targetPort: 8080 }", "{ port: 80 }");
        assert_eq!(
            warnings(80, other, "db"),
            ["policy shop/p names port 80 of service db.shop.svc, but the workloads behind it \
              listen on 8080, which is what policies are matched with; write \"8080\""]
        );
        let both = "{ port: 80, targetPort: 8080 }, { port: 90, targetPort: 80 }";
        for (named, ports, selector) in [
            (8080, other, "db"),
            (81, other, "db"),
            (80, same, "db"),
            (80, both, "db"),
            (80, other, "web"),
        ] {
            assert!(warnings(named, ports, selector).is_empty(), "{named} {ports} {selector}");
        }
    }
}
