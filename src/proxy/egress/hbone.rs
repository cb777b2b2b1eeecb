//! HBONE that goes out: a stream to another proxy, on a tunnel of the pool.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use tokio::net::TcpStream;

use super::failed::Failed;
use crate::{
    hbone::{
        ConnectError, Hop, Pool, connect::ConnectRequest, order::Ticket, stream::TunnelStream,
    },
    identity::LocalIdentity,
    net::{CloseReason, Outcome},
    observe::conn::OpenConn,
    sys::sockets,
};

/// Whose connections go out: a workload of the node, or a service on its own.
pub trait Source: Sync {
    /// What it shows, and whom it trusts, at this moment.
    ///
    /// # Errors
    /// It has nothing to show.
    fn identity(&self) -> impl Future<Output = Result<LocalIdentity, Outcome>> + Send;
    /// Counts a tunnel that was not established.
    fn handshake_failed(&self, reason: CloseReason);
}

/// Opens a stream to `hop`; what the application has said by now goes with the request, and is in
/// `said` for the next attempt if there is none.
///
/// # Errors
/// Why there is none: no identity, no tunnel, or what the peer answered.
///
/// # Cancel safety
/// Dropping the future resets the stream only.
pub async fn open<S: Source>(
    source: &S,
    pool: &Pool,
    (app, said): (&TcpStream, &mut Vec<u8>),
    conn: &OpenConn,
    (hop, request, ticket): (&Hop, &ConnectRequest, &Ticket),
) -> Result<TunnelStream, Failed> {
    let mut own = source.identity().await?;
    if said.is_empty() {
        *said = sockets::read_now(app);
    }
    let mut opened = pool.open(&own, hop, (request, said), ticket).await;
    let reason = opened.as_ref().err().map(ConnectError::close_reason);
    let judged = matches!(reason, Some(CloseReason::PeerDenied | CloseReason::SvidExpired));
    if judged && !own.svid.counts_at(SystemTime::now()) {
        // The clock was set on the way: what either end showed has run out, and both have newer.
        let newer = source.identity().await?;
        if newer.svid.serial != own.svid.serial {
            own = newer;
            opened = pool.open(&own, hop, (request, said), ticket).await;
        }
    }
    let (stream, proven) = opened.map_err(|e| {
        if e.is_handshake() {
            source.handshake_failed(e.close_reason());
        }
        Failed::from(&e)
    })?;
    conn.live().meter.up.fetch_add(said.len() as u64, Relaxed);
    conn.metadata(|f| {
        f.src.id = Some(own.svid.id.clone());
        f.dst.id = Some(proven.peer.id.clone());
        f.tunnel = Some(proven.id);
        f.tls = Some(Arc::clone(&proven.peer.tls));
    });
    // After the metadata, by which a re-check finds this stream: one of the two sees the other.
    match proven.termination() {
        Some(no) => Err((no.reason, Some(no.why.to_string())).into()),
        None => Ok(stream),
    }
}
