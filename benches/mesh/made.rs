//! A mesh as Istio would tell it: deployments of ten pods in namespaces of fifty deployments;
//! each deployment has a service account, a service with a virtual address, and a policy.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::thread_time;
use adit::{
    mesh::{AppNames, Locality, Membership, Service, ServicePort, Store, Template, Workload},
    policy::{Action, FieldMatch, Match, Policy, Rule, Scope, StringMatch},
};

const REPLICAS: usize = 10;
const DEPLOYMENTS_OF_A_NAMESPACE: usize = 50;
const PODS_OF_A_NODE: usize = 50;
/// Made, told and counted together.
const BATCH: usize = 1000;

/// A change of the store, ready to be made.
pub(crate) type Delta = Box<dyn FnOnce(&mut Store)>;
type MakeDelta = fn(&Made, usize) -> Delta;
type Load<'a> = Box<dyn Fn(&mut Store) -> Duration + 'a>;

pub(crate) struct Made {
    pub(crate) workloads: usize,
    services: usize,
}

impl Made {
    pub(crate) fn of(workloads: usize) -> Self {
        Self { workloads, services: workloads / REPLICAS }
    }

    /// What is loaded: under which name its memory stands, and how many there are.
    pub(crate) fn loads(&self) -> [(&'static str, usize, Load<'_>); 3] {
        let workloads = |store: &mut Store| {
            batches(
                self.workloads,
                |n| self.workload(n),
                |w| {
                    store.upsert_workload(w);
                },
            )
        };
        let services = |store: &mut Store| {
            batches(
                self.services,
                |n| self.service(n),
                |s| {
                    store.upsert_service(s);
                },
            )
        };
        let policies = |store: &mut Store| {
            batches(
                self.services,
                |n| self.policy(n, 1),
                |p| {
                    store.upsert_policy(p);
                },
            )
        };
        [
            ("bytes_per_workload", self.workloads, Box::new(workloads)),
            ("bytes_per_service", self.services, Box::new(services)),
            ("bytes_per_policy", self.services, Box::new(policies)),
        ]
    }

    /// The changes that are measured: under which names half and 99 of 100 stand.
    pub(crate) fn deltas(&self) -> [([&'static str; 2], MakeDelta); 4] {
        [
            (["workload_moves_p50_us", "workload_moves_p99_us"], |made, n| {
                let mut workload = made.workload(n * 7919 % made.workloads);
                let far = made.workloads + n;
                workload.addresses = [made.address(far)].into();
                Box::new(move |store| {
                    store.upsert_workload(workload);
                })
            }),
            (["workload_new_p50_us", "workload_new_p99_us"], |made, n| {
                let workload = made.workload(2 * made.workloads + n * 104_729);
                Box::new(move |store| {
                    store.upsert_workload(workload);
                })
            }),
            (["policy_changes_p50_us", "policy_changes_p99_us"], |made, n| {
                let policy = made.policy(n * 7919 % made.services, 2 + n % 2);
                Box::new(move |store| {
                    store.upsert_policy(policy);
                })
            }),
            (["service_changes_p50_us", "service_changes_p99_us"], |made, n| {
                let mut service = made.service(n * 7919 % made.services);
                service.ports[0].target_port = u16::try_from(9000 + n % 1000).expect("a port");
                Box::new(move |store| {
                    store.upsert_service(service);
                })
            }),
        ]
    }

    /// Of every workload one, in no order.
    pub(crate) fn shuffled<T>(&self, make: impl Fn(usize) -> T) -> Vec<T> {
        shuffled(self.workloads).map(make).collect()
    }

    /// Of every service one, in no order.
    pub(crate) fn shuffled_services<T>(&self, make: impl Fn(usize) -> T) -> Vec<T> {
        shuffled(self.services).map(make).collect()
    }

    pub(crate) fn namespace(&self, deployment: usize) -> String {
        format!("team-{:03}", deployment / DEPLOYMENTS_OF_A_NAMESPACE)
    }

    fn deployment(&self, n: usize) -> String {
        const NAMES: [&str; 5] = ["checkout", "catalog-api", "payments", "web-frontend", "ledger"];
        format!("{}-{n}", NAMES[n % NAMES.len()])
    }

    fn pod(&self, n: usize) -> String {
        let deployment = self.deployment(n / REPLICAS);
        let hash = (n / REPLICAS).wrapping_mul(0x9e37_79b9) & 0xff_ffff_ffff;
        let own = n.wrapping_mul(0x85eb_ca6b) & 0xf_ffff;
        format!("{deployment}-{hash:010x}-{own:05x}")
    }

    pub(crate) fn uid(&self, n: usize) -> String {
        format!("Kubernetes//Pod/{}/{}", self.namespace(n / REPLICAS), self.pod(n))
    }

    pub(crate) fn address(&self, n: usize) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(n).expect("few")).into()
    }

    pub(crate) fn vip(&self, n: usize) -> IpAddr {
        std::net::Ipv4Addr::from(0xac10_0000 + u32::try_from(n).expect("few")).into()
    }

    pub(crate) fn hostname(&self, n: usize) -> String {
        format!("{}.{}.svc.cluster.local", self.deployment(n), self.namespace(n))
    }

    fn workload(&self, n: usize) -> Workload {
        let deployment = n / REPLICAS;
        let (namespace, name) = (self.namespace(deployment), self.deployment(deployment));
        let policy = format!("{namespace}/only-{name}");
        let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{name}");
        let hostname = self.hostname(deployment).into();
        let behind =
            Membership { namespace: namespace.as_str().into(), hostname, ports: Box::default() };
        let template = Template {
            policies: [policy.as_str().into()].into(),
            services: [behind].into(),
            app: AppNames {
                workload: name.as_str().into(),
                canonical_name: name.as_str().into(),
                canonical_revision: "v1".into(),
                ..AppNames::default()
            },
            cluster: "Kubernetes".into(),
            locality: Locality {
                region: "eu-central-1".into(),
                zone: "eu-central-1a".into(),
                subzone: Arc::default(),
            },
            ..Template::new(namespace.as_str().into(), id.parse().expect("an ID"))
        };
        Workload {
            uid: self.uid(n).into(),
            name: self.pod(n).into(),
            addresses: [self.address(n)].into(),
            node: Some(format!("ip-10-0-{}.internal", n / PODS_OF_A_NODE).into()),
            healthy: true,
            template: Arc::new(template),
            local: None,
        }
    }

    fn service(&self, n: usize) -> Service {
        Service {
            vips: vec![self.vip(n).into()],
            ports: vec![
                ServicePort { port: 80, target_port: 8080 },
                ServicePort { port: 9090, target_port: 9090 },
            ],
            ..Service::new(self.namespace(n).into(), self.hostname(n).into())
        }
    }

    fn policy(&self, n: usize, rules: usize) -> Policy {
        let (namespace, name) = (self.namespace(n), self.deployment(n));
        let caller = format!("cluster.local/ns/{namespace}/sa/web-frontend-{n}");
        let any = vec![StringMatch::parse(&caller).expect("a match")];
        let source = Match { principals: FieldMatch { any, none: vec![] }, ..Match::default() };
        let rule = Rule { clauses: vec![source.into()], ..Rule::default() };
        Policy {
            name: format!("only-{name}"),
            namespace,
            scope: Scope::Selector { labels: [("app".into(), name)].into(), everywhere: false },
            action: Action::Allow,
            dry_run: false,
            rules: vec![rule; rules],
        }
    }
}

/// Tells the store of `count` in turn; the time that the telling takes.
fn batches<T>(count: usize, make: impl Fn(usize) -> T, mut tell: impl FnMut(T)) -> Duration {
    let mut spent = Duration::ZERO;
    for from in (0..count).step_by(BATCH) {
        let batch: Vec<T> = (from..count.min(from + BATCH)).map(&make).collect();
        let begin = thread_time();
        batch.into_iter().for_each(&mut tell);
        spent += thread_time() - begin;
    }
    spent
}

/// Each number below `count` once: by a step that has no factor in common with it.
fn shuffled(count: usize) -> impl Iterator<Item = usize> {
    const STEP: usize = 7_368_787; // a prime, larger than any count
    (0..count).map(move |n| n * STEP % count)
}
