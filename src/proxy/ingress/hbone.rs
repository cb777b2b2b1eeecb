//! HBONE that arrives, from the accepted socket to the end of the last stream.
//!
//! 1. The caller gets a place among those that have proven nothing; the handshake has a deadline.
//! 2. A caller that has proven itself is registered, so that its tunnel is closed once it is no
//!    longer trusted ([`crate::hbone::TunnelRegistry`]); it gets a place for its tunnel and its
//!    share as a caller.
//! 3. Each CONNECT stream is a connection with a record of its own: refused where its caller has
//!    too much or is no longer trusted, else [`Destination`] says where it goes, whether it may,
//!    and dials; only then it is answered.
//!
//! What a role decides about them is its [`Destination`]. Not here: the wire
//! ([`crate::hbone::server`]).

use std::{net::SocketAddr, sync::Arc, time::Instant};

use http::StatusCode;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::{
    hbone::{
        AuthenticatedTunnel, Callers, TunnelConfig, TunnelRegistry,
        server::{self, Incoming},
        stream::TunnelStream,
    },
    identity::LocalIdentity,
    lifecycle::Tasks,
    net::{CloseReason, Direction, Outcome, PeerAddr},
    observe::conn::OpenConn,
    relay::App,
    tls::{Acceptor, Peer, Session, TlsError},
};

/// Serves one tunnel that was accepted: the handshake first, then its streams, each in `streams`.
/// None is taken any more once `draining` fires.
pub async fn serve<D: Destination>(
    destination: Arc<D>,
    (tcp, ends): (TcpStream, Ends),
    streams: Tasks,
    draining: CancellationToken,
) {
    let refused = |outcome| refused(&*destination, ends, outcome);
    let unproven = match destination.unproven(ends.peer.0) {
        Ok(place) => place,
        Err(outcome) => return refused(outcome),
    };
    let accepted = tokio::select! {
        accepted = accept(&*destination, tcp) => accepted,
        outcome = D::given_up(&unproven) => Err(outcome),
    };
    let (session, proven) = match accepted {
        Ok(accepted) => accepted,
        Err(outcome) => return refused(outcome),
    };
    let _place = tokio::select! {
        place = destination.place(unproven) => match place {
            Ok(place) => place,
            Err(outcome) => return refused(outcome),
        },
        () = proven.ended() => return,
    };
    let (id, from) = (&proven.peer.id, ends.peer.0.ip());
    let caller = match destination.callers().enter(id, from, Instant::now()) {
        Ok(caller) => caller,
        Err(why) => {
            server::turn_away(session, destination.config());
            return refused((CloseReason::Overloaded, Some(why.to_string())));
        }
    };
    let tunnel = Arc::new(IngressTunnel {
        destination: Arc::clone(&destination),
        ends,
        proven: Arc::clone(&proven),
        caller: destination.caller(&proven.peer),
    });
    let handle = |incoming| serve_stream(Arc::clone(&tunnel), incoming);
    let (peer, config) = (ends.peer.0, destination.config());
    let with = server::TunnelParams { peer, config, caller: &caller, tasks: &streams, draining };
    let serve = server::serve(session, with, handle);
    let served = tokio::select! {
        served = serve => served,
        () = proven.ended() => return,
    };
    match served {
        Ok(()) => {}
        Err(broken) if broken.streams == 0 => {
            refused((CloseReason::TunnelFailure, Some(broken.why)));
        }
        Err(broken) => tracing::debug!(target: "tunnel", error = broken.why, "tunnel ended"),
    }
}

/// The handshake, and whether its peer is allowed.
async fn accept<D: Destination>(
    destination: &D,
    tcp: TcpStream,
) -> Result<(Session, Arc<AuthenticatedTunnel>), Outcome> {
    let LocalIdentity { svid, bundles } = destination.identity().await?;
    let within = destination.config().tls;
    let session = match destination.acceptor().accept(tcp, &svid, &bundles, within).await {
        Ok(session) => session,
        // Who ended before it said anything only looked whether somebody is here.
        Err(TlsError::Silent) => return Err((CloseReason::Silent, None)),
        Err(error) => return Err((error.close_reason(), Some(error.to_string()))),
    };
    let (own, peer) = (svid.id.clone(), session.peer.clone());
    let proven = destination.tunnels().admit(Direction::Inbound, own, peer, &bundles);
    Ok((session, proven.map_err(|no| (no.reason, Some(no.why.to_string())))?))
}

/// A tunnel that never came to be is a record too.
pub fn refused<D: Destination>(destination: &D, ends: Ends, outcome: Outcome) {
    if outcome.0 != CloseReason::Silent {
        destination.handshake_failed(outcome.0);
    }
    destination.finish(destination.record(ends), outcome);
}

/// One CONNECT stream, from request to close.
///
/// No `async fn`, which would hold its arguments twice for as long as the stream lives.
pub(crate) fn serve_stream<D: Destination>(
    tunnel: Arc<IngressTunnel<D>>,
    incoming: Box<Incoming>,
) -> impl Future<Output = ()> + Send {
    let conn = tunnel.destination.record(tunnel.ends);
    async move {
        let outcome = tokio::select! {
            outcome = carry(&*tunnel, incoming, &conn) => outcome,
            reason = conn.live().until_cut() => (reason, None),
        };
        tunnel.destination.finish(conn, outcome);
    }
}

async fn carry<D: Destination>(
    tunnel: &IngressTunnel<D>,
    incoming: Box<Incoming>,
    conn: &OpenConn,
) -> Outcome {
    // In a box of its own, so that a connection that flows does not hold what opening it took.
    match Box::pin(begin(tunnel, *incoming, conn)).await {
        Ok((mut app, mut stream)) => tunnel.destination.relay(&mut app, &mut stream, conn).await,
        Err(outcome) => outcome,
    }
}

async fn begin<D: Destination>(
    tunnel: &IngressTunnel<D>,
    incoming: Incoming,
    conn: &OpenConn,
) -> Result<(App, Box<TunnelStream>), Outcome> {
    let begun = let_in(tunnel, incoming, conn).await;
    tunnel.destination.count(begun.is_ok());
    let (app, stream) = begun?;
    conn.count_opened();
    Ok((app, Box::new(stream)))
}

/// Checks a request, dials the application it is for, and answers it.
async fn let_in<D: Destination>(
    tunnel: &IngressTunnel<D>,
    mut incoming: Incoming,
    conn: &OpenConn,
) -> Result<(App, TunnelStream), Outcome> {
    let IngressTunnel { destination, proven, .. } = tunnel;
    conn.metadata(|f| {
        f.hbone_addr = Some(incoming.authority_text().into());
        f.protocol = Some("HBONE");
        f.tunnel = Some(proven.id);
        f.tls = Some(Arc::clone(&proven.peer.tls));
    });
    destination.describe(tunnel, conn);
    if let Some(why) = incoming.is_too_much() {
        return Err(refuse(incoming, (CloseReason::Overloaded, Some(why.to_owned()))));
    }
    // After the metadata, by which a re-check finds this stream: one of the two sees the other.
    if let Err(outcome) = still_trusted(proven) {
        return Err(refuse(incoming, outcome));
    }
    let target = match destination.target(tunnel, &incoming, conn).await {
        Ok(target) => target,
        Err(Refusal { status, reason, why }) => {
            incoming.refuse(status);
            return Err((reason, Some(why.to_owned())));
        }
    };
    if let Err(outcome) = destination.authorize(tunnel, &target, conn).await {
        return Err(refuse(incoming, outcome));
    }
    let dialled = tokio::select! {
        dialled = destination.dial(tunnel, &target, conn) => dialled,
        () = incoming.abandoned() => return Err(caller_gave_up()),
    };
    let app = match dialled {
        Ok(app) => app,
        Err(outcome) => return Err(refuse(incoming, outcome)),
    };
    let baggage = destination.baggage(&target);
    let stream = incoming.accept(baggage.as_deref()).ok_or_else(caller_gave_up)?;
    Ok((app, stream.recorded(conn.live())))
}

/// A tunnel outlives the SVID that made it, and what that was checked against; what is new in it
/// does not.
fn still_trusted(proven: &AuthenticatedTunnel) -> Result<(), Outcome> {
    if let Some(no) = proven.termination() {
        return Err((no.reason, Some(no.why.to_string())));
    }
    if proven.peer.has_ended() {
        let why = "the caller's SVID expired while its tunnel was open";
        return Err((CloseReason::SvidExpired, Some(why.to_owned())));
    }
    Ok(())
}

/// The caller went away before it had an answer.
fn caller_gave_up() -> Outcome {
    (CloseReason::PeerReset, Some("the caller cancelled its request".to_owned()))
}

/// What a caller hears of its request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ConnectReply {
    /// It was not looked at, and may be sent again on another tunnel.
    TurnedAway,
    /// This status.
    Status(StatusCode),
}

impl ConnectReply {
    fn to(reason: CloseReason) -> Self {
        match reason {
            // Where an SVID runs out the tunnel says GOAWAY ahead of this: whoever has a new one
            // may come back with it.
            CloseReason::Overloaded | CloseReason::SvidExpired | CloseReason::NoIdentity => {
                Self::TurnedAway
            }
            CloseReason::ConnectFailure | CloseReason::ConnectTimeout | CloseReason::Internal => {
                Self::Status(StatusCode::SERVICE_UNAVAILABLE)
            }
            _ => Self::Status(StatusCode::UNAUTHORIZED),
        }
    }
}

fn refuse(incoming: Incoming, outcome: Outcome) -> Outcome {
    match ConnectReply::to(outcome.0) {
        ConnectReply::TurnedAway => incoming.turn_away(),
        ConnectReply::Status(status) => incoming.refuse(status),
    }
    outcome
}

/// The destination of tunnels: a pod of the node, or a standalone service. It decides on each
/// request; the order of the checks and the responses to the caller are the same for both.
pub trait Destination: Send + Sync + Sized + 'static {
    /// The place of a caller that has not proven who it is.
    type Unproven: Send + Sync;
    /// The place of a tunnel, until its end.
    type Place: Send;
    /// What it knows of a caller beside its SVID; found out once for a tunnel.
    type Caller: Send + Sync;
    /// Where a stream goes.
    type Target: Send + Sync;

    /// Limits and deadlines of tunnels.
    fn config(&self) -> &TunnelConfig;
    /// Makes the handshakes.
    fn acceptor(&self) -> &Acceptor;
    /// Where tunnels are entered.
    fn tunnels(&self) -> &TunnelRegistry;
    /// What each caller has.
    fn callers(&self) -> &Callers;

    /// A place for a caller that has proven nothing.
    ///
    /// # Errors
    /// There is none.
    fn unproven(&self, peer: SocketAddr) -> Result<Self::Unproven, Outcome>;
    /// Ends when somebody else needs the place. Cancel safe.
    fn given_up(unproven: &Self::Unproven) -> impl Future<Output = Outcome> + Send;
    /// A place for the tunnel of a caller that has proven itself. Cancel safe.
    ///
    /// # Errors
    /// There is none.
    fn place(
        &self,
        unproven: Self::Unproven,
    ) -> impl Future<Output = Result<Self::Place, Outcome>> + Send;
    /// What it shows, and whom it trusts.
    ///
    /// # Errors
    /// It has nothing to show.
    fn identity(&self) -> impl Future<Output = Result<LocalIdentity, Outcome>> + Send;
    /// What else is to be known of a caller.
    fn caller(&self, peer: &Peer) -> Self::Caller;

    /// Counts a tunnel that was not established.
    fn handshake_failed(&self, reason: CloseReason);
    /// Opens the record of a connection, or of a tunnel that was not established.
    fn record(&self, ends: Ends) -> OpenConn;
    /// Writes the record.
    fn finish(&self, conn: OpenConn, outcome: Outcome);
    /// Counts a stream: it was let in and its target reached, or not.
    fn count(&self, let_in: bool) {
        let _ = let_in;
    }

    /// Leaves in the record what it knows of the caller.
    fn describe(&self, tunnel: &IngressTunnel<Self>, conn: &OpenConn) {
        let _ = (tunnel, conn);
    }
    /// Where a request goes; nothing is dialled.
    ///
    /// # Errors
    /// Nowhere.
    fn target(
        &self,
        tunnel: &IngressTunnel<Self>,
        incoming: &Incoming,
        conn: &OpenConn,
    ) -> impl Future<Output = Result<Self::Target, Refusal>> + Send;
    /// Whether the caller may go there.
    ///
    /// # Errors
    /// Why not.
    fn authorize(
        &self,
        tunnel: &IngressTunnel<Self>,
        target: &Self::Target,
        conn: &OpenConn,
    ) -> impl Future<Output = Result<(), Outcome>> + Send;
    /// Reaches the application. Cancel safe.
    ///
    /// # Errors
    /// Why it cannot be reached.
    fn dial(
        &self,
        tunnel: &IngressTunnel<Self>,
        target: &Self::Target,
        conn: &OpenConn,
    ) -> impl Future<Output = Result<App, Outcome>> + Send;
    /// How it describes itself to the caller, if it does: the header of that name.
    fn baggage(&self, target: &Self::Target) -> Option<String>;
    /// Carries bytes until both sides have ended.
    fn relay(
        &self,
        app: &mut App,
        stream: &mut TunnelStream,
        conn: &OpenConn,
    ) -> impl Future<Output = Outcome> + Send;
}

/// The two addresses of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Whence it came.
    pub peer: PeerAddr,
    /// What was called.
    pub local: SocketAddr,
}

/// A tunnel whose two ends are proven.
pub struct IngressTunnel<D: Destination> {
    /// The destination that it arrived for.
    pub destination: Arc<D>,
    /// Its addresses.
    pub ends: Ends,
    /// Who is at its ends.
    pub proven: Arc<AuthenticatedTunnel>,
    /// What the destination knows of the caller.
    pub caller: D::Caller,
}

/// A request that goes nowhere.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// What the caller hears.
    pub status: StatusCode,
    /// What the record says …
    pub reason: CloseReason,
    /// … and to people.
    pub why: &'static str,
}

#[cfg(test)]
mod tests;
