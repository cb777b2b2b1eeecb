//! What a pod of the namespace `shop` is told.

use super::*;
use crate::mesh::{Membership, MtlsMode, NetworkAddress, Store, Template};

const DOMAIN: &str = "cluster.local";

struct Mesh(Store);

impl Mesh {
    fn new() -> Self {
        Self(Store::new("td".parse().unwrap(), MtlsMode::Strict))
    }

    fn with(mut self, hostname: &str, namespace: &str, change: impl FnOnce(&mut Service)) -> Self {
        let mut service = Service::new(namespace.into(), hostname.into());
        change(&mut service);
        self.0.upsert_service(service);
        self
    }

    fn service(self, hostname: &str, namespace: &str, vips: &[&str]) -> Self {
        self.with(hostname, namespace, |service| service.vips = addresses(vips))
    }

    fn endpoint(mut self, hostname: &str, healthy: bool, ips: &[&str]) -> Self {
        let mut workload = workload("bank", ips);
        workload.uid = format!("bank/{}", ips[0]).into();
        workload.healthy = healthy;
        let (namespace, hostname) = ("bank".into(), hostname.into());
        let member = Membership { namespace, hostname, ports: Box::default() };
        Arc::make_mut(&mut workload.template).services = [member].into();
        self.0.upsert_workload(workload);
        self
    }

    fn asked(&self, naming: &Naming, name: &str, ipv6: bool) -> Option<Known> {
        let client = workload("shop", &["10.9.9.9"]);
        answer(&self.0.view(), naming, &client, (name, ipv6), &mut 0)
    }

    fn of(&self, name: &str) -> Option<Known> {
        self.asked(&Naming::default(), name, false)
    }

    /// The addresses, in their order.
    fn told(&self, name: &str, ipv6: bool) -> Option<Vec<String>> {
        let known = self.asked(&Naming::default(), name, ipv6)?;
        let mut told: Vec<_> = known.addresses.iter().map(ToString::to_string).collect();
        told.sort();
        Some(told)
    }
}

fn addresses(ips: &[&str]) -> Vec<NetworkAddress> {
    ips.iter().map(|ip| NetworkAddress::from(ip.parse::<IpAddr>().unwrap())).collect()
}

fn workload(namespace: &str, ips: &[&str]) -> Workload {
    let id = format!("spiffe://td/ns/{namespace}/sa/web").parse().unwrap();
    Workload {
        uid: "shop/web".into(),
        name: "web".into(),
        addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        node: None,
        healthy: true,
        template: Arc::new(Template::new(namespace.into(), id)),
        local: None,
    }
}

#[test]
fn names_of_services_are_understood_as_kubernetes_writes_them() {
    let mesh = Mesh::new()
        .service("db.shop.svc.cluster.local", "shop", &["10.96.0.1", "2001:db8::1"])
        .service("db.bank.svc.cluster.local", "bank", &["10.96.0.2"])
        .service("www.example.com", "bank", &["240.240.0.1"]);
    for (name, told) in [
        ("db", Some(&["10.96.0.1"][..])),
        ("db.shop", Some(&["10.96.0.1"])),
        ("db.bank.svc", Some(&["10.96.0.2"])),
        ("db.bank.svc.cluster.local", Some(&["10.96.0.2"])),
        ("www.example.com", Some(&["240.240.0.1"])),
        ("db.bank.svc.shop.svc.cluster.local", Some(&["10.96.0.2"])),
        ("db.other", None),
        ("example.com", None),
        ("cluster.local", None),
        ("", None),
    ] {
        let told = told.map(|all| all.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>());
        assert_eq!(mesh.told(name, false), told, "{name}");
    }
    assert_eq!(mesh.told("db", true), Some(vec!["2001:db8::1".into()]));
    assert_eq!(mesh.told("db.bank", true), Some(vec![]), "known, and without such an address");
    let four_only = Naming { ipv6: false, ..Naming::default() };
    assert_eq!(mesh.asked(&four_only, "db", true).unwrap().addresses, Vec::<IpAddr>::new());
}

#[test]
fn a_search_domain_makes_an_alias_and_a_wildcard_none() {
    let mesh = Mesh::new()
        .service("www.example.com", "bank", &["240.240.0.1"])
        .service("*.example.org", "bank", &["240.240.0.2"])
        .service("*.a.example.org", "bank", &["240.240.0.3"]);
    let alias = |name: &str| mesh.of(name).unwrap().alias;
    assert_eq!(alias("www.example.com"), None);
    assert_eq!(alias("www.example.com.shop.svc.cluster.local"), Some(3));
    assert_eq!(alias("www.example.com.svc.cluster.local"), Some(3));
    assert_eq!(alias("www.example.com.cluster.local"), Some(3));
    assert_eq!(alias("x.example.org.cluster.local"), None);
    assert_eq!(mesh.told("x.y.example.org", false), Some(vec!["240.240.0.2".into()]));
    assert_eq!(mesh.told("x.a.example.org", false), Some(vec!["240.240.0.3".into()]));
    assert_eq!(mesh.told("example.org", false), None);
}

#[test]
fn of_several_services_the_nearest_is_meant_and_a_private_one_is_not_seen() {
    let own = |mesh: Mesh| mesh.service("api.example.com", "shop", &["240.0.0.1"]);
    let canonical = |mesh: Mesh| {
        mesh.with("api.example.com", "canon", |service| {
            (service.vips, service.is_canonical) = (addresses(&["240.0.0.2"]), true);
        })
    };
    let others = || {
        let private = |service: &mut Service| {
            (service.vips, service.is_private) = (addresses(&["240.0.0.5"]), true);
        };
        Mesh::new()
            .with("api.example.com", "a-private", private)
            .service("api.example.com", "b", &["240.0.0.3"])
            .service("api.example.com", "c", &["240.0.0.4"])
    };
    let told = |mesh: &Mesh| mesh.told("api.example.com", false).unwrap().concat();
    assert_eq!(told(&own(canonical(others()))), "240.0.0.1");
    assert_eq!(told(&canonical(others())), "240.0.0.2");
    assert_eq!(told(&others()), "240.0.0.3");
    let preferring = Naming { preferred_namespace: Some("c".into()), ..Naming::default() };
    let known = others().asked(&preferring, "api.example.com", false).unwrap();
    assert_eq!(&*known.service.namespace, "c");
}

#[test]
fn a_service_without_addresses_is_answered_with_its_endpoints_if_kubernetes_has_it() {
    let headless = "db.bank.svc.cluster.local";
    let mesh = Mesh::new()
        .with(headless, "bank", |_| ())
        .with("outside.example.com", "bank", |_| ())
        .endpoint(headless, true, &["10.0.0.1", "2001:db8::1"])
        .endpoint(headless, true, &["10.0.0.2"])
        .endpoint(headless, false, &["10.0.0.3"])
        .endpoint("outside.example.com", true, &["10.0.0.4"]);
    assert_eq!(mesh.told(headless, false), Some(vec!["10.0.0.1".into(), "10.0.0.2".into()]));
    assert_eq!(mesh.told(headless, true), Some(vec!["2001:db8::1".into()]));
    assert_eq!(mesh.told("outside.example.com", false), None);
    let elsewhere = Naming { cluster_domain: "other.local".into(), ..Naming::default() };
    assert_eq!(mesh.asked(&elsewhere, headless, false), None);
    assert!(headless.ends_with(DOMAIN));
}

#[test]
fn virtual_addresses_of_another_network_or_family_are_not_told() {
    let far = |ip: &str| NetworkAddress { network: "far".into(), ip: ip.parse().unwrap() };
    let mesh = Mesh::new()
        .with("a.example.com", "bank", |service| {
            service.vips = addresses(&["240.0.0.1"]);
            service.vips.push(far("240.0.0.2"));
        })
        .with("b.example.com", "bank", |service| service.vips = vec![far("240.0.0.3")])
        .with("c.example.com", "bank", |service| {
            service.vips = addresses(&["240.0.0.4", "2001:db8::4"]);
            service.families = crate::mesh::Families::Ipv4;
        });
    assert_eq!(mesh.told("a.example.com", false), Some(vec!["240.0.0.1".into()]));
    assert_eq!(mesh.told("b.example.com", false), Some(vec![]));
    assert_eq!(mesh.told("c.example.com", true), Some(vec![]));
    assert_eq!(mesh.told("c.example.com", false), Some(vec!["240.0.0.4".into()]));
}
