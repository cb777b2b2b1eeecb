//! Connections that a pod asks for by SOCKS5 at a port of its loopback address: where rules cannot
//! redirect them, or the application knows names that its resolver does not.
//!
//! They go where captured ones would go ([`super::route`]); the client is told that the connection
//! stands only once it does. Names are those of the DNS proxy, asked as the pod's own queries.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    arrival::Outward,
    outbound::reach,
    reach::{Worker, local_only},
    record::ended,
};
use crate::{
    net::{CloseReason, Direction, Outcome, PeerAddr},
    observe::conn::OpenConn,
    proxy::{
        dns::Resolver,
        ingress::socks5::{self, Asked, NotSpoken, Reply},
    },
    relay::{self, App, Remote},
    sys::sockets,
};

/// How long a client may take to say what it wants.
const SAYS_WITHIN: Duration = Duration::from_secs(10);
/// How long the name that it wants may take to be found.
const FOUND_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take to hear an answer of a few bytes.
const HEARS_WITHIN: Duration = Duration::from_secs(5);
/// How many clients of one pod say what they want at once, or wait for a name.
pub(super) const MOST_ASKING: usize = 256;

/// What one worker serves such connections with.
pub(super) struct Socks {
    pub(super) worker: Worker,
    /// What names mean, if they are answered for pods.
    pub(super) names: Option<Arc<Resolver>>,
}

/// Serves one connection accepted at the SOCKS port.
pub(super) fn serve(
    by: Arc<Socks>,
    (client, peer): (TcpStream, SocketAddr),
) -> impl Future<Output = ()> + Send {
    let telemetry = &by.worker.node.telemetry;
    let counted = telemetry.metrics.listeners.socket(Direction::Outbound);
    let peer = PeerAddr(sockets::canonical(peer));
    let conn = OpenConn::open(telemetry, Direction::Outbound, peer);
    conn.metadata(|f| f.pod = Some(Arc::clone(&by.worker.pod.name)));
    async move {
        let outcome = tokio::select! {
            outcome = carry(&by, client, &conn) => outcome,
            reason = conn.live().until_cut() => (reason, None),
        };
        conn.finish(outcome);
        drop(counted);
    }
}

async fn carry(by: &Socks, mut client: TcpStream, conn: &OpenConn) -> Outcome {
    // In a box of its own, so that a connection that flows does not hold what opening it took.
    let mut far = match Box::pin(open(by, &mut client, conn)).await {
        Ok(far) => far,
        Err(outcome) => return outcome,
    };
    let (mut app, limits) = (App::new(client), &by.worker.node.limits);
    ended(relay::run(&mut app, &mut *far, &conn.live().meter, limits).await)
}

/// Hears what a client wants, opens the way there and tells the client.
async fn open(
    by: &Socks,
    client: &mut TcpStream,
    conn: &OpenConn,
) -> Result<Box<dyn Remote>, Outcome> {
    let dst = meant(by, client).await?;
    match reach(&by.worker, client, Outward::asked(dst), conn).await {
        Ok(far) => {
            tell(client, &Reply::Succeeded.bytes()).await?;
            Ok(far)
        }
        Err(outcome) => {
            let _ = tell(client, &reply_of(outcome.0).bytes()).await;
            Err(outcome)
        }
    }
}

/// The address that a client wants to reach. It is told if there is none.
async fn meant(by: &Socks, client: &mut TcpStream) -> Result<SocketAddr, Outcome> {
    let Ok(_place) = by.worker.pod.asking.try_acquire() else {
        let why = format!("{MOST_ASKING} SOCKS5 clients have not sent their requests yet");
        return Err((CloseReason::Overloaded, Some(why)));
    };
    let addr = match hear(client).await? {
        Asked::Addr(addr) => Ok(addr),
        Asked::Name(name, port) => find(by.names.as_deref(), &name, port).await,
    };
    match addr.and_then(not_local_only) {
        Ok(addr) => Ok(addr),
        Err((reason, why)) => {
            let _ = tell(client, &reply_of(reason).bytes()).await;
            Err((reason, Some(why)))
        }
    }
}

/// What a client says, in the time that it has for that. It is told if it cannot be served.
async fn hear<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C) -> Result<Asked, Outcome> {
    let said = async {
        let answer = socks5::greeting(client).await?;
        client.write_all(&answer).await?;
        socks5::request(client).await
    };
    let bad = |why: &str| (CloseReason::BadConnect, Some(format!("SOCKS5: {why}")));
    match timeout(SAYS_WITHIN, said).await {
        Ok(Ok(asked)) => Ok(asked),
        Ok(Err(NotSpoken::Silent)) => Err((CloseReason::Silent, None)),
        Ok(Err(not)) => {
            let _ = tell(client, &not.answer()).await;
            Err(bad(&not.to_string()))
        }
        Err(_) => Err(bad(&format!("no request within {SAYS_WITHIN:?}"))),
    }
}

/// An address that another may have: who reaches this port need not be able to reach what listens
/// on the loopback address beside it.
fn not_local_only(addr: SocketAddr) -> Result<SocketAddr, (CloseReason, String)> {
    let Some(what) = local_only(addr.ip()) else { return Ok(addr) };
    let reason = match addr.ip().to_canonical().is_loopback() {
        true => CloseReason::DirectCall,
        false => CloseReason::NoHealthyUpstream,
    };
    Err((reason, format!("{addr} is {what} address; SOCKS5 leads to other pods and hosts only")))
}

/// An address of a name, of IPv4 if it has one.
async fn find(
    names: Option<&Resolver>,
    name: &str,
    port: u16,
) -> Result<SocketAddr, (CloseReason, String)> {
    let unknown = |why: String| (CloseReason::NoHealthyUpstream, why);
    let is_off = || "adit resolves no names: ISTIO_META_DNS_CAPTURE is false".to_owned();
    let names = names.ok_or_else(|| unknown(is_off()))?;
    let found = async {
        for ipv6 in [false, true] {
            if let Some(ip) = names.addresses(name, ipv6).await.first() {
                return Some(ip.to_canonical());
            }
        }
        None
    };
    match timeout(FOUND_WITHIN, found).await {
        Ok(Some(ip)) => Ok(SocketAddr::new(ip, port)),
        Ok(None) => Err(unknown(format!("{name} has no address"))),
        Err(_) => Err(unknown(format!("{name} was not resolved within {FOUND_WITHIN:?}"))),
    }
}

async fn tell<C: AsyncWrite + Unpin>(client: &mut C, answer: &[u8]) -> Result<(), Outcome> {
    let failed = |why: String| (CloseReason::AppReset, Some(format!("application: {why}")));
    match timeout(HEARS_WITHIN, client.write_all(answer)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("it does not read the answer".to_owned())),
    }
}

/// What the client is told of a failure.
fn reply_of(reason: CloseReason) -> Reply {
    match reason {
        CloseReason::PeerDenied | CloseReason::EgressDenied | CloseReason::DirectCall => {
            Reply::NotAllowed
        }
        CloseReason::NoHealthyUpstream
        | CloseReason::ConnectTimeout
        | CloseReason::HboneTimeout => Reply::HostUnreachable,
        CloseReason::ConnectFailure | CloseReason::PeerRefused => Reply::Refused,
        _ => Reply::Failure,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, duplex},
        time::{Instant, sleep},
    };

    use super::*;

    /// And not for each byte.
    #[tokio::test(start_paused = true)]
    async fn a_client_has_so_long_to_say_what_it_wants() {
        let (mut client, mut ours) = duplex(64);
        let begun = Instant::now();
        let drips = async {
            loop {
                client.write_all(&[5]).await.unwrap();
                sleep(Duration::from_secs(3)).await;
            }
        };
        let heard = tokio::select! {
            heard = hear(&mut ours) => heard,
            () = drips => unreachable!("it drips for ever"),
        };
        assert_eq!(heard.unwrap_err().0, CloseReason::BadConnect);
        assert_eq!(begun.elapsed(), SAYS_WITHIN);
    }

    #[tokio::test]
    async fn a_client_that_is_not_served_is_told_and_one_that_says_nothing_is_a_probe() {
        let (mut client, mut ours) = duplex(64);
        client.write_all(&[5, 1, 0, 5, 2, 0, 1, 10, 0, 0, 1, 0, 80]).await.unwrap();
        let (reason, why) = hear(&mut ours).await.unwrap_err();
        assert_eq!(reason, CloseReason::BadConnect);
        assert_eq!(why.as_deref(), Some("SOCKS5: a command other than CONNECT"));
        let mut told = [0; 4];
        client.read_exact(&mut told).await.unwrap();
        assert_eq!(told, [5, 0, 5, 7]);
        let (client, mut ours) = duplex(64);
        drop(client);
        assert_eq!(hear(&mut ours).await, Err((CloseReason::Silent, None)));
    }

    #[test]
    fn no_client_reaches_the_loopback_address_through_us() {
        let reply =
            |addr: &str| not_local_only(addr.parse().unwrap()).map_err(|(why, _)| reply_of(why));
        for addr in ["10.0.0.1:15080", "[fd00::1]:80"] {
            assert_eq!(reply(addr), Ok(addr.parse().unwrap()));
        }
        for addr in ["127.0.0.1:15080", "127.1.2.3:8080", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(reply(addr), Err(Reply::NotAllowed), "{addr}");
        }
        for addr in ["0.0.0.0:15080", "[::]:80", "224.0.0.1:80", "255.255.255.255:80"] {
            assert_eq!(reply(addr), Err(Reply::HostUnreachable), "{addr}");
        }
    }
}
