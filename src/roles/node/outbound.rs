//! One captured connection of a pod's application, from accept to close.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    Pod,
    arrival::{Course, Onward, Outward},
    reach::{Worker, open},
    record::{ended, peer_info},
    route::Route,
};
use crate::{
    mesh::Avoided,
    net::{Direction, Outcome, PeerAddr},
    observe::conn::OpenConn,
    proxy::egress::{Failed, Verdict},
    relay::{self, App, Remote},
    sys::sockets,
};

/// How many endpoints are tried for one connection …
const MOST_TRIED: usize = 3;
/// … and within which time.
const TRIED_WITHIN: Duration = Duration::from_secs(25);

/// Serves one connection accepted on 15001.
///
/// No `async fn`, which would hold its arguments twice for as long as the connection lives.
pub(super) fn serve(
    by: Arc<Worker>,
    (app, peer): (TcpStream, SocketAddr),
    found: Box<Outward>,
) -> impl Future<Output = ()> + Send {
    let Worker { node, pod, .. } = &*by;
    let counted = node.telemetry.metrics.listeners.socket(Direction::Outbound);
    let peer = PeerAddr(sockets::canonical(peer));
    let conn = OpenConn::open(&node.telemetry, Direction::Outbound, peer);
    let mut app = pod.captured_app(app);
    async move {
        let outcome = tokio::select! {
            outcome = carry(&by, &mut app, found, &conn) => outcome,
            reason = conn.live().until_cut() => (reason, None),
        };
        conn.finish(outcome);
        drop((app, counted));
    }
}

async fn carry(by: &Worker, app: &mut App, found: Box<Outward>, conn: &OpenConn) -> Outcome {
    // In a box of its own, so that a connection that flows does not hold what opening it took.
    match Box::pin(reach(by, app.socket(), *found, conn)).await {
        Ok(mut far) => ended(relay::run(app, &mut *far, &conn.live().meter, &by.node.limits).await),
        Err(outcome) => outcome, // and a reset, as `app` is dropped before its end
    }
}

/// Opens the way to where the connection goes: to another endpoint if the first cannot be reached.
pub(super) async fn reach(
    by: &Worker,
    app: &TcpStream,
    Outward { dst, from, onward }: Outward,
    conn: &OpenConn,
) -> Result<Box<dyn Remote>, Outcome> {
    let Worker { node, pod, .. } = by;
    conn.metadata(|f| {
        (f.dst_addr, f.flow_dst, f.pod) = (dst, dst, Some(Arc::clone(&pod.name)));
        f.src = from.as_deref().map(peer_info).unwrap_or_default();
    });
    let mut onward = match onward {
        Ok(onward) => onward,
        Err(stays) => {
            let onward = stays.awaited(node, pod).await?;
            conn.metadata(|f| f.src = peer_info(&onward.course.from));
            onward
        }
    };
    let (mut tries, mut said) = (Tries::default(), Vec::new());
    let until = Instant::now() + TRIED_WITHIN;
    loop {
        let Onward { course, ticket } = onward;
        describe(conn, &course.route);
        let begun = std::time::Instant::now();
        let attempt = open(by, (app, &mut said), conn, (&course, ticket));
        // The first has deadlines of its own.
        let opened = match tries.failed.last() {
            None => attempt.await,
            Some(_) => timeout_at(until, attempt).await.unwrap_or_else(|_| Err(late())),
        };
        let failed = match opened {
            Ok(far) => {
                by.reached(&course.route);
                conn.count_opened();
                return Ok(far);
            }
            Err(failed) => failed,
        };
        by.missed(&course.route, begun, &failed);
        onward = match tries.next(by, course, failed, until) {
            Ok(onward) => onward,
            Err(outcome) => return Err(outcome),
        };
    }
}

fn late() -> Failed {
    let why = format!("no endpoint accepted the connection within {} s", TRIED_WITHIN.as_secs());
    (crate::net::CloseReason::ConnectTimeout, Some(why)).into()
}

/// The endpoints that a connection has tried.
#[derive(Default)]
struct Tries {
    avoided: Avoided,
    failed: Vec<Outcome>,
}

impl Tries {
    /// The way to another endpoint, if one may be tried, and there is one. It takes no place behind
    /// those that went to it at once.
    fn next(
        &mut self,
        by: &Worker,
        course: Course,
        Failed { outcome, verdict }: Failed,
        until: Instant,
    ) -> Result<Onward, Outcome> {
        let may = verdict != Verdict::Final
            && self.failed.len() + 1 < MOST_TRIED
            && Instant::now() < until;
        let Some(endpoint) = course.route.endpoint().filter(|_| may) else {
            return Err(self.told(outcome));
        };
        self.avoided.tried.push(endpoint.clone());
        self.avoided.only_hbone |= course.route.is_by_hbone();
        self.avoided.ejected = by.pod.endpoints.ejected(std::time::Instant::now());
        let Ok(next) = course.again(&by.node, &self.avoided) else {
            return Err(self.told(outcome));
        };
        by.node.telemetry.metrics.endpoints.retried(outcome.0);
        tracing::debug!(
            target: "outbound", pod = %by.pod.name, %endpoint, reason = %outcome.0,
            error = outcome.1, "trying another endpoint"
        );
        self.failed.push(outcome);
        Ok(next)
    }

    /// The last failure, with those before it.
    fn told(&self, (reason, why): Outcome) -> Outcome {
        let before: Vec<_> = self.failed.iter().filter_map(|(_, why)| why.as_deref()).collect();
        match before.as_slice() {
            [] => (reason, why),
            all => {
                let last = why.unwrap_or_else(|| reason.to_string());
                (reason, Some(format!("{last}; before that: {}", all.join("; "))))
            }
        }
    }
}

fn describe(conn: &OpenConn, route: &Route) {
    conn.metadata(|f| {
        let (to, service) = match route {
            Route::Hbone { hop, authority, to, service } => {
                f.dst_addr = Some(hop.addr);
                f.hbone_addr = Some(authority.to_string().into());
                f.protocol = Some("HBONE");
                (to, service)
            }
            Route::DoubleHbone { hop, gateway, to, service } => {
                let port = hop.through.as_ref().map_or(0, |through| through.port);
                // That of a name comes once it is known.
                f.dst_addr = gateway.is_none().then_some(hop.addr).or(f.dst_addr);
                f.hbone_addr = Some(format!("{}:{port}", service.hostname).into());
                f.protocol = Some("DOUBLEHBONE");
                (to, &Some(Arc::clone(service)))
            }
            Route::Tcp { addr, to, service } | Route::Named { called: addr, to, service, .. } => {
                f.dst_addr = Some(*addr);
                f.protocol = Some("TCP");
                (to, service)
            }
            Route::Passthrough(_) => {
                f.protocol = Some("TCP");
                return;
            }
        };
        f.dst = peer_info(to);
        f.service = service.as_ref().map(|s| s.hostname.clone());
        f.service_namespace = service.as_ref().map(|s| s.namespace.clone());
    });
}

impl Pod {
    /// The application whose connection was captured, by the sockmap redirect where there is one,
    /// which knows the connection by this address.
    pub(super) fn captured_app(&self, socket: TcpStream) -> App {
        self.app(socket, sockets::original_dst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::conn::LiveConn;

    /// What thousands of idle connections are made of: a field here is megabytes there.
    #[test]
    fn an_idle_connection_is_small() {
        fn serving<A, B, C, D>(_: fn(A, B, C) -> D) -> usize {
            size_of::<D>()
        }
        let sizes = [("task", serving(serve), 456), ("record", size_of::<LiveConn>(), 440)];
        for (what, size, most) in sizes {
            assert!(size <= most, "the {what} takes {size} bytes, more than {most}");
        }
    }
}
