//! HBONE in HBONE (istio-ambient facts §3.10): the tunnels to another network run through streams
//! to its gateway, which sees their bytes sealed. A tunnel is made over a socket as any other; a
//! pair of sockets on this host's loopback stands between it and its stream, which costs two copies
//! and lets the inner tunnels be pooled and revoked as all others are. Their descriptors count as the
//! pod's.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    hbone::{
        ConnectError, Hop, Pool, Underlay,
        connect::{Authority, ConnectRequest},
        order::Lane,
    },
    identity::LocalIdentity,
    lifecycle::Tasks,
    observe::conn::Meter,
    relay::{self, App},
    sys::descriptors::of_traffic,
};

/// How long the pair of sockets may take, which nobody else has a part in.
const PAIR: Duration = Duration::from_secs(5);

/// Makes the connections of tunnels to other networks.
pub struct Gateways {
    /// Tunnels to gateways.
    pool: Arc<Pool>,
    tasks: Tasks,
    pairs: Pairs,
}

/// Whether a descriptor is one too many for a pod that has so many pairs.
pub type IsTooMuch = Box<dyn Fn(BorrowedFd<'_>, usize) -> bool + Send + Sync>;

impl Gateways {
    /// By tunnels of `pool`; what is relayed is in `tasks`.
    #[must_use]
    pub fn new(pool: Arc<Pool>, tasks: Tasks, is_too_much: IsTooMuch) -> Self {
        Self { pool, tasks, pairs: Pairs { open: Arc::default(), is_too_much } }
    }

    async fn through(&self, own: &LocalIdentity, hop: &Hop) -> Result<TcpStream, ConnectError> {
        let failed = |e: io::Error| ConnectError::Tcp { addr: hop.addr, source: Arc::new(e) };
        let Some(through) = &hop.through else {
            return Err(failed(io::ErrorKind::Unsupported.into()));
        };
        let (near, far, counted) = self.pairs.one().await.map_err(failed)?;
        let request = ConnectRequest {
            authority: Authority::Host(through.hostname.to_string(), through.port),
            client: near.local_addr().map_err(failed)?,
            service: Some(Arc::clone(&through.hostname)),
            // What is said of the caller is in the inner request.
            baggage: String::new(),
            network: None,
        };
        let gateway = Hop::new(hop.addr, through.gateway.clone());
        let ticket = Arc::<Lane>::default().enter();
        let opened = self.pool.open(own, &gateway, (&request, &[]), &ticket).await;
        let (mut stream, proven) = opened?;
        self.tasks.spawn(async move {
            let _counted = counted;
            let meter = Arc::<Meter>::default();
            let mut app = App::new(far);
            let limits = relay::Limits::default();
            tokio::select! {
                _ = relay::run(&mut app, &mut stream, &meter, &limits) => {}
                () = proven.ended() => {} // and both are reset
            }
        });
        Ok(near)
    }
}

impl Underlay for Gateways {
    fn connect<'a>(
        &'a self,
        own: &'a LocalIdentity,
        hop: &'a Hop,
    ) -> BoxFuture<'a, Result<TcpStream, ConnectError>> {
        self.through(own, hop).boxed()
    }
}

/// Pairs of sockets of one pod.
struct Pairs {
    /// Held once more by each.
    open: Arc<()>,
    is_too_much: IsTooMuch,
}

impl Pairs {
    /// One more, which counts until the last part is dropped.
    ///
    /// # Errors
    /// EMFILE if it is one too many; the descriptors are closed again.
    async fn one(&self) -> io::Result<(TcpStream, TcpStream, Arc<()>)> {
        let counted = Arc::clone(&self.open);
        let (near, far) = pair().await?;
        let others = Arc::strong_count(&self.open).saturating_sub(2);
        let too_much = |socket: &TcpStream| (self.is_too_much)(socket.as_fd(), others);
        if too_much(&near) || too_much(&far) {
            return Err(nix::errno::Errno::EMFILE.into());
        }
        Ok((of_traffic(near)?, of_traffic(far)?, counted))
    }
}

/// Two ends of one connection, which nobody else has got into.
async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let made = async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let near = TcpStream::connect(listener.local_addr()?).await?;
        loop {
            let (far, from) = listener.accept().await?;
            if from == near.local_addr()? {
                near.set_nodelay(true)?;
                far.set_nodelay(true)?;
                return Ok((near, far));
            }
        }
    };
    // Not as if the gateway had not answered.
    let late = || io::Error::other(format!("no pair of loopback sockets within {PAIR:?}"));
    timeout(PAIR, made).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pod_has_its_part_of_the_pairs_and_one_that_ends_makes_room() {
        let pairs = Pairs { open: Arc::default(), is_too_much: Box::new(|_, has| has >= 2) };
        let first = pairs.one().await.unwrap();
        let _second = pairs.one().await.unwrap();
        let third = pairs.one().await.unwrap_err();
        assert_eq!(third.raw_os_error(), Some(nix::errno::Errno::EMFILE as i32));
        drop(first);
        assert!(pairs.one().await.is_ok());
    }
}
