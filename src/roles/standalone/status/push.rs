//! Metrics sent to where they are wanted; one attempt at a time, and a lost one is only told of.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Method;
use rustls::ClientConfig;
use tokio::{
    io::AsyncWriteExt as _,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{Address, HttpUrl, Status, http_url::exchange, metrics::Gathered, unix_now};
use crate::{
    credentials::roots::trusted,
    lifecycle::{Tasks, dial},
    net::endpoint::connect,
    tls::web_client,
};

/// How long an attempt may take.
const WITHIN: Duration = Duration::from_secs(5);
/// As with ghostunnel, Graphite hears each second.
const GRAPHITE_EVERY: Duration = Duration::from_secs(1);

/// Pushes what the configuration says, until `tasks` are cut. Needs the control runtime.
///
/// # Errors
/// If the roots for an https URL cannot be read.
pub fn push(status: &Arc<Status>, tasks: &Tasks) -> Result<(), String> {
    if let Some(address) = status.config.graphite.clone() {
        let status = Arc::clone(status);
        tasks.spawn(async move {
            let to = address.to_string();
            repeat(GRAPHITE_EVERY, &to, || graphite(&status, &address)).await;
        });
    }
    if let Some(url) = status.config.url.clone() {
        let roots = url.tls.then(|| trusted(status.config.roots.as_ref())).transpose()?;
        let tls = roots.map(web_client).transpose()?;
        let status = Arc::clone(status);
        tasks.spawn(async move {
            let to = url.to_string();
            repeat(status.config.every, &to, || post(&status, &url, tls.clone())).await;
        });
    }
    Ok(())
}

/// Tells of the first failure of a row, and of the end of the row.
async fn repeat<F>(every: Duration, to: &str, mut once: impl FnMut() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let done = timeout(WITHIN, once()).await.unwrap_or_else(|_| Err("no answer".into()));
        match &done {
            Err(error) if !failing => tracing::warn!(to, error, "metrics push rejected"),
            Ok(()) if failing => tracing::info!(to, "metrics push works again"),
            _ => {}
        }
        failing = done.is_err();
    }
}

async fn graphite(status: &Status, address: &Address) -> Result<(), String> {
    let lines = Gathered::of(&status.services()).to_graphite(&status.config.prefix, unix_now());
    let mut stream = connect(address).await.map_err(|e| e.to_string())?;
    stream.write_all(lines.as_bytes()).await.map_err(|e| e.to_string())?;
    stream.shutdown().await.map_err(|e| e.to_string())
}

async fn post(
    status: &Status,
    url: &HttpUrl,
    tls: Option<Arc<ClientConfig>>,
) -> Result<(), String> {
    let gathered = Gathered::of(&status.services());
    let body = gathered.to_json(&status.config.prefix, &status.hostname, unix_now()).to_string();
    let tcp = dial::connect(&url.host, url.port).await;
    let tcp = tcp.map_err(|e| e.to_string())?;
    let answer = exchange(url, tcp, tls, Method::POST, Bytes::from(body)).await?;
    if answer.is_success() { Ok(()) } else { Err(format!("answered {answer}")) }
}
