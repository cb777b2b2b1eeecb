//! HBONE in HBONE (istio-ambient facts §3.10): the tunnels to another network run through streams
//! to its gateway, which sees their bytes sealed. A tunnel is made over a socket as any other; a
//! pair of sockets on this host's loopback stands between it and its stream, which costs two copies
//! and lets the inner tunnels be pooled and revoked as all others are.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
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
};

/// How long the pair of sockets may take, which nobody else has a part in.
const PAIR: Duration = Duration::from_secs(5);

/// Makes the connections of tunnels to other networks.
pub struct Gateways {
    /// Tunnels to gateways.
    pool: Arc<Pool>,
    tasks: Tasks,
}

impl Gateways {
    /// By tunnels of `pool`; what is relayed is in `tasks`.
    #[must_use]
    pub fn new(pool: Arc<Pool>, tasks: Tasks) -> Self {
        Self { pool, tasks }
    }

    async fn through(&self, own: &LocalIdentity, hop: &Hop) -> Result<TcpStream, ConnectError> {
        let failed = |e: io::Error| ConnectError::Tcp { addr: hop.addr, source: Arc::new(e) };
        let Some(through) = &hop.through else {
            return Err(failed(io::ErrorKind::Unsupported.into()));
        };
        let (near, far) = pair().await.map_err(failed)?;
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
    timeout(PAIR, made).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
