//! PING every 10 s, each answered within 20 s, on both ends (istio-ambient facts §3.2): a
//! peer that is gone without a FIN is noticed.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(20);

/// Ends when the peer no longer answers. The connection must be polled beside it.
pub(super) async fn until_silent(pings: Option<PingPong>) -> String {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(INTERVAL).await;
        match timeout(TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => return e.to_string(),
            Err(_) => return format!("no answer to PING in {TIMEOUT:?}"),
        }
    }
}
