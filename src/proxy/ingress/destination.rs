//! What a proxy decides about the tunnels that arrive at it, whoever runs it.

use std::{net::SocketAddr, sync::Arc};

use http::StatusCode;

use crate::{
    hbone::{
        AuthenticatedTunnel, Callers, TunnelConfig, TunnelRegistry, server::Incoming,
        stream::TunnelStream,
    },
    identity::LocalIdentity,
    net::{CloseReason, PeerAddr},
    observe::conn::OpenConn,
    proxy::outcome::Outcome,
    relay::App,
    tls::{Acceptor, Peer},
};

/// Whom tunnels arrive for: a pod of the node, or a service on its own. It decides; the order in
/// which it is asked, and what a caller hears, are the same for all.
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

    /// Counts a tunnel that did not come to be.
    fn handshake_failed(&self, reason: CloseReason);
    /// Opens the record of a connection, or of a tunnel that did not come to be.
    fn record(&self, ends: Ends) -> OpenConn;
    /// Writes the record.
    fn finish(&self, conn: OpenConn, outcome: Outcome);
    /// Counts a stream: it was let in and its target reached, or not.
    fn count(&self, let_in: bool) {
        let _ = let_in;
    }

    /// Leaves in the record what it knows of the caller.
    fn describe(&self, tunnel: &Tunnel<Self>, conn: &OpenConn) {
        let _ = (tunnel, conn);
    }
    /// Where a request goes; nothing is dialled.
    ///
    /// # Errors
    /// Nowhere.
    fn target(
        &self,
        tunnel: &Tunnel<Self>,
        incoming: &Incoming,
        conn: &OpenConn,
    ) -> Result<Self::Target, Refusal>;
    /// Whether the caller may go there.
    ///
    /// # Errors
    /// Why not.
    fn authorize(
        &self,
        tunnel: &Tunnel<Self>,
        target: &Self::Target,
        conn: &OpenConn,
    ) -> impl Future<Output = Result<(), Outcome>> + Send;
    /// Reaches the application. Cancel safe.
    ///
    /// # Errors
    /// Why it cannot be reached.
    fn dial(
        &self,
        tunnel: &Tunnel<Self>,
        target: &Self::Target,
        conn: &OpenConn,
    ) -> impl Future<Output = Result<App, Outcome>> + Send;
    /// How it describes itself to the caller: the header of that name.
    fn baggage(&self, target: &Self::Target) -> String;
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
pub struct Tunnel<D: Destination> {
    /// Whom it arrived for.
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
