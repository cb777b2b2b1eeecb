//! Whether anybody's Workload API keeps the specification, as a raw client sees it: this says what
//! the server said, where [`crate::credentials::workload_api::client`] says only what can be used.
//!
//! It calls as the process that it is: what that may have, is looked at. Nothing is kept, and no
//! key is shown. Each wait is bounded, and a server that hangs is not asked for long.

mod call;
mod header;
mod jwt;
mod rest;
mod x509;

use std::time::{Duration, SystemTime};

use call::RawClient;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    credentials::workload_api::{Endpoint, client::channel},
    identity::lint::Report,
};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Audience of the tokens that are fetched and validated.
    pub audience: String,
    /// How long a stream is watched for messages that say nothing new.
    pub watch: Duration,
    /// How long one answer may take.
    pub answer: Duration,
}

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
const ADDRESS: &str = "Workload Endpoint §4";

/// Checks the Workload API at an address, as it would stand in `SPIFFE_ENDPOINT_SOCKET`.
///
/// # Cancel safety
/// Dropping it ends all calls.
pub async fn check(address: &str, options: &Options) -> Report {
    let mut report = Report::new("Workload API");
    report.subject = Some(address.to_owned());
    let endpoint = match address.parse::<Endpoint>() {
        Ok(endpoint) => endpoint,
        Err(error) => {
            let advice = "write unix:///absolute/path or tcp://IP:PORT, and nothing after it";
            report.fail("address", ADDRESS, error.to_string(), advice);
            return report;
        }
    };
    if address.contains("://") || address.starts_with("unix:") {
        report.ok("address", ADDRESS, endpoint.to_string());
    } else {
        let advice = "other clients require a URI";
        report.warn("address", ADDRESS, format!("a path; as a URI it is {endpoint}"), advice);
    }
    let reached = connect(&endpoint).await.map(|()| "it accepts connections".to_owned());
    let missed = reached.is_err();
    let advice = "start the server, and check that this process may open the socket";
    report.judge("reachable", "Workload Endpoint §2, §3", reached, advice);
    if missed {
        return report;
    }
    let wire = RawClient::new(channel(&endpoint), options.answer);
    let now = SystemTime::now();
    let seen = x509::check(&mut report, &wire, now).await;
    let token = jwt::check(&mut report, &wire, options, seen.as_ref(), now).await;
    header::check(&mut report, &wire, options, token.as_deref()).await;
    rest::check(&mut report, &wire).await;
    x509::watch(&mut report, seen, options.watch).await;
    report
}

async fn connect(endpoint: &Endpoint) -> Result<(), String> {
    let connected = async {
        match endpoint {
            Endpoint::Unix(path) => UnixStream::connect(path).await.map(drop),
            Endpoint::Tcp(address) => TcpStream::connect(address).await.map(drop),
        }
    };
    match timeout(CONNECT, connected).await {
        Ok(connected) => connected.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no connection within {CONNECT:?}")),
    }
}
