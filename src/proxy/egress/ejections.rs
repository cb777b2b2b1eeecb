//! How the endpoints do that the pods of a node call, for whoever shows it.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use super::ejection::{EjectedEndpoint, EndpointHealth};
use crate::net::PodName;

/// What each pod keeps in mind of endpoints.
#[derive(Debug, Default)]
pub struct Ejections(Mutex<Vec<(Arc<PodName>, Weak<EndpointHealth>)>>);

impl Ejections {
    /// That of a pod which begins; it goes with the pod.
    #[must_use]
    pub fn of_pod(&self, pod: &Arc<PodName>) -> Arc<EndpointHealth> {
        let health = Arc::<EndpointHealth>::default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, health)| health.strong_count() > 0);
        all.push((Arc::clone(pod), Arc::downgrade(&health)));
        health
    }

    /// Who is left out at present, with the pod that does so.
    #[must_use]
    pub fn now(&self, now: Instant) -> Vec<(Arc<PodName>, EjectedEndpoint)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_pod = |(pod, health): &(Arc<PodName>, Weak<EndpointHealth>)| {
            let ejected = health.upgrade().map(|health| health.ejected_endpoints(now));
            let pod = Arc::clone(pod);
            ejected.into_iter().flatten().map(move |endpoint| (Arc::clone(&pod), endpoint))
        };
        all.iter().flat_map(of_pod).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::EndpointAddress;

    #[test]
    fn what_a_pod_has_left_out_is_shown_until_the_pod_goes() {
        let (all, now) = (Ejections::default(), Instant::now());
        let pod = |name: &str| {
            let name: Arc<str> = name.into();
            Arc::new(PodName { uid: Arc::clone(&name), name, service_account: None })
        };
        let (web, db) = (pod("shop/web"), pod("shop/db"));
        let (of_web, of_db) = (all.of_pod(&web), all.of_pod(&db));
        let endpoint = EndpointAddress::Ip("10.0.0.1:80".parse().unwrap());
        for _ in 0..3 {
            of_web.failed(endpoint.clone(), now, now);
        }
        let shown = all.now(now);
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert_eq!((&shown[0].0, &shown[0].1.address), (&web, &endpoint));
        assert!(of_db.ejected(now).is_empty(), "another pod may reach it");
        drop(of_web);
        assert_eq!(all.now(now), []);
    }
}
