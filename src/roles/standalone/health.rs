//! Asks targets now and then whether they are well: a connection, with TLS or a PROXY header where
//! they expect one, or a GET that must answer 200.

use std::{str::FromStr, time::Duration};

use futures_util::future::join_all;
use http_body_util::Empty;
use hyper::{Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use rand::Rng as _;

use super::{
    HealthConfig, HttpCheck, Role, Service,
    reach::{self, Parting},
    targets::Target,
};
use crate::{
    net::{Address, endpoint},
    relay::SecuredRemote,
};

impl Default for HealthConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), timeout: Duration::from_secs(3), http: None }
    }
}

impl FromStr for HttpCheck {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: http::Uri =
            text.parse().map_err(|e| format!("{text:?} is not a valid URL: {e}"))?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        match (uri.scheme_str(), uri.authority()) {
            (None, None) if text.starts_with('/') => Ok(Self { at: None, path }),
            (Some("http"), Some(authority)) => {
                let port = authority.port_u16().unwrap_or(80);
                let host = authority.host().trim_matches(['[', ']']).to_owned();
                Ok(Self { at: Some(Address::Tcp { host, port }), path })
            }
            (Some("https"), _) => Err(format!(
                "{text:?}: targets take plaintext, so health checks need http:// or a /PATH"
            )),
            _ => Err(format!("{text:?}: expected /PATH or http://HOST:PORT/PATH")),
        }
    }
}

/// Asks all targets for ever.
pub(super) async fn follow(service: &Service, config: &HealthConfig) {
    let targets = &service.targets;
    loop {
        join_all(targets.all().iter().map(|target| async {
            let asked = tokio::time::timeout(config.timeout, ask(service, target, config)).await;
            let late = |_| Err(format!("no answer within {:?}", config.timeout));
            let (found, parting) = match asked.unwrap_or_else(late) {
                Ok(parting) => (Ok(()), parting),
                Err(why) => (Err(why), None),
            };
            targets.checked(target, found);
            if let Some(parting) = parting {
                parting.leave().await;
            }
        }))
        .await;
        // Many processes that started together do not stay together.
        let jitter = rand::rng().random_range(0.9..1.1);
        tokio::time::sleep(config.interval.mul_f64(jitter)).await;
    }
}

/// Asks one target as it wants to be spoken to: with TLS, or with a PROXY header first.
async fn ask(
    service: &Service,
    target: &Target,
    config: &HealthConfig,
) -> Result<Option<Parting>, String> {
    if service.config.role == Role::Client {
        let secured = reach::tls(service, target, |_| Ok(())).await;
        let secured = secured.map_err(|(_, why)| why.unwrap_or_default())?;
        let far = SecuredRemote::new(secured).map_err(|e| e.to_string())?;
        return Ok(Some(Parting::Tls(Box::new(far))));
    }
    let failed = |e: std::io::Error| e.to_string();
    let Some(check) = &config.http else {
        let tcp = reach::plain(service, &target.address).await.map_err(failed)?;
        return Ok(Some(Parting::Plain(tcp)));
    };
    let address = check.at.as_ref().unwrap_or(&target.address);
    let stream = match &check.at {
        None => reach::plain(service, address).await,
        Some(elsewhere) => endpoint::connect(elsewhere).await,
    };
    let stream = stream.map_err(failed)?;
    let wrong = |e: hyper::Error| e.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(wrong)?;
    let host = match address {
        Address::Tcp { .. } => address.to_string(),
        Address::Unix(_) | Address::Abstract(_) | Address::Systemd(_) => "localhost".into(),
    };
    let request = Request::get(&check.path)
        .header("host", host)
        .header("user-agent", concat!("adit/", env!("CARGO_PKG_VERSION")))
        .header("connection", "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|e| e.to_string())?;
    let mut connection = std::pin::pin!(connection);
    let mut response = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut response => answer.map_err(wrong)?,
        ended = &mut connection => {
            ended.map_err(wrong)?;
            response.await.map_err(wrong)?
        }
    };
    match answer.status() {
        StatusCode::OK => Ok(None),
        other => Err(format!("GET {} answered {other}", check.path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_a_path_or_a_url() {
        for (text, at, path) in [
            ("/healthz", None, "/healthz"),
            ("http://localhost:8080/a?b=c", Some("localhost:8080"), "/a?b=c"),
            ("http://[::1]:1", Some("[::1]:1"), "/"),
            ("http://h/x", Some("h:80"), "/x"),
        ] {
            let check: HttpCheck = text.parse().unwrap();
            let read = check.at.as_ref().map(ToString::to_string);
            assert_eq!((read.as_deref(), check.path.as_str()), (at, path), "{text}");
        }
        for bad in ["https://h/x", "healthz", "ftp://h/x", ""] {
            assert!(bad.parse::<HttpCheck>().is_err(), "{bad}");
        }
    }
}
