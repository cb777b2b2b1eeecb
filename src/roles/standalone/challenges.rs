//! Where the challenges of an ACME CA come in while no service takes them: before the start, and at
//! a port of their own.

use std::{net::IpAddr, time::Duration};

use backon::{ExponentialBuilder, Retryable as _};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::proxy_protocol;
use crate::{
    credentials::acme::{AcmeConfig, Pending, Renewal},
    lifecycle::{AcceptBackoff, Place, Places, is_of_one_connection, source},
    net::{Accepting, Address, Listening},
    sys::descriptors::of_traffic,
};

/// How long a caller may take for its PROXY header.
const WITHIN: Duration = Duration::from_secs(10);
/// How many callers are looked at at once, before there is a service: then the oldest that has
/// asked for nothing goes.
const AT_ONCE: usize = 64;
/// How long at most nothing is accepted after descriptors ran out.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Sees to it that there is a certificate, before anything is served: five attempts.
///
/// # Errors
/// What the CA said to the last of them.
///
/// # Cancel safety
/// Dropped, it leaves an order at the CA that nobody finishes.
pub(crate) async fn first_acme_certificate(
    config: &AcmeConfig,
    listening: &Listening,
    proxy_header: bool,
) -> Result<(), String> {
    let renewal = Renewal::of(config.clone());
    if renewal.is_valid() {
        return Ok(());
    }
    tracing::info!(
        target: "svid", name = config.name, ca = config.directory,
        "ordering a certificate by ACME"
    );
    let accepting = listening.accepting().map_err(|e| e.to_string())?;
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(5))
        .with_max_delay(Duration::from_secs(120))
        .with_max_times(4);
    let ordering = (|| renewal.order(answer_challenges)).retry(pauses).notify(|error, pause| {
        tracing::warn!(
            target: "svid", name = config.name, error, ?pause,
            "no certificate by ACME yet; trying again"
        );
    });
    tokio::select! {
        ordered = ordering => ordered,
        () = serve(&accepting, &renewal.pending, proxy_header) => {
            Err("challenges can no longer be answered".into())
        }
    }
}

/// Answers challenges at this port on all addresses, until dropped; returns only why it cannot.
pub(crate) fn answer_challenges(port: u16, pending: &Pending) -> BoxFuture<'_, String> {
    async move {
        let everywhere = Address::Tcp { host: String::new(), port };
        let own = match Listening::open(&everywhere, "") {
            Ok(own) => own,
            Err(error) => return format!("the port for ACME challenges: {error}"),
        };
        match own.accepting() {
            Ok(accepting) => serve(&accepting, pending, false).await,
            Err(error) => return error.to_string(),
        }
        "challenges can no longer be answered".to_owned()
    }
    .boxed()
}

/// Takes connections that no service takes yet, and answers challenges; whoever else calls is
/// turned away. Never returns.
async fn serve(accepting: &Accepting, pending: &Pending, proxy_header: bool) {
    let places = Places::new(AT_ONCE, AT_ONCE);
    let mut callers = FuturesUnordered::new();
    let mut backoff = AcceptBackoff::new("ACME challenges").at_most(LONGEST_PAUSE);
    let mut resume = Instant::now();
    loop {
        tokio::select! {
            // Those that have been given up end at once; until then they are callers still.
            accepted = async {
                sleep_until(resume).await;
                accepting.accept().await
            }, if callers.len() < 2 * AT_ONCE => match accepted
                .and_then(|(socket, peer)| Ok((of_traffic(socket)?, peer)))
            {
                Ok((socket, peer)) => {
                    backoff.succeeded();
                    let Some(place) = places.take(source(peer.ip())) else { continue };
                    callers.push(async move {
                        tokio::select! {
                            () = caller(socket, pending, proxy_header, &place) => {}
                            () = place.given_up() => {}
                        }
                    }.boxed());
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => resume = Instant::now() + backoff.note(&error),
            },
            Some(()) = callers.next() => {}
        }
    }
}

async fn caller(socket: TcpStream, pending: &Pending, proxy_header: bool, place: &Place<IpAddr>) {
    let Some(challenge) = pending.load_full() else { return };
    if proxy_header {
        let told = tokio::time::timeout(WITHIN, proxy_protocol::read(&socket)).await;
        if !told.is_ok_and(|told| told.is_ok()) {
            return;
        }
    }
    if challenge.is_asked(&socket).await {
        place.prove();
        challenge.answer(socket).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::credentials::acme::Challenge;

    /// They would keep the CA out until their time is over.
    #[tokio::test]
    async fn the_oldest_silent_caller_goes_for_one_too_many() {
        let listening = Listening::open(&"127.0.0.1:0".parse().unwrap(), "").unwrap();
        let accepting = listening.accepting().unwrap();
        let at = listening.local_addrs()[0];
        let challenge = Challenge::new("db.example.org", &[7; 32]).unwrap();
        let pending = Pending::from(Some(Arc::new(challenge)));
        let calls = async {
            let mut silent = Vec::new();
            for _ in 0..=AT_ONCE {
                silent.push(TcpStream::connect(at).await.unwrap());
            }
            let mut byte = [0];
            let closed = tokio::time::timeout(WITHIN / 2, silent[0].read(&mut byte)).await;
            assert_eq!(closed.expect("the oldest goes").unwrap(), 0);
            let open = |socket: &TcpStream| {
                socket.try_read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
            };
            assert!(silent[1..].iter().all(open), "the others may still ask");
        };
        tokio::select! {
            () = serve(&accepting, &pending, false) => unreachable!(),
            () = calls => {}
        }
    }
}
