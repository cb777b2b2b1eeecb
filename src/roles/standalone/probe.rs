//! Whether a service's target answers now: what `/_status` asks, without a connection to carry.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode};

use super::{
    Role, Service, TlsOptions, admission,
    reach::{self, Parting},
    status::{HttpUrl, exchange},
    tls::{Config, build},
};
use crate::{
    hbone::HBONE_PORT,
    identity::PeerCert,
    net::{Address, endpoint},
    relay::SecuredRemote,
};

/// The longest a check takes, whatever the connect timeout.
const MOST: Duration = Duration::from_secs(10);

impl Service {
    /// Connects as for a connection, and ends it: TLS and the check of who is there are made
    /// where the target speaks TLS, and the status URL is asked where there is one.
    ///
    /// # Errors
    /// What is wrong with the target.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub(super) async fn probe(&self) -> Result<(), String> {
        let limit = self.config.connect.min(MOST);
        let asked = async {
            match (self.config.role, &self.config.hbone) {
                (Role::Server, _) => self.probe_plain().await.map(|parting| (Ok(()), parting)),
                (Role::Client, None) => self.probe_tls().await,
                (Role::Client, Some(hbone)) => {
                    let gateway = hbone.gateway.clone().or_else(|| self.own_gateway());
                    let gateway = gateway.ok_or("the target must be HOST:PORT")?;
                    endpoint::connect(&gateway).await.map_err(|e| format!("{gateway}: {e}"))?;
                    Ok((Ok(()), None))
                }
            }
        };
        let late = |_| format!("no answer within {}", humantime::format_duration(limit));
        let (found, parting) = tokio::time::timeout(limit, asked).await.map_err(late)??;
        if let Some(parting) = parting {
            parting.leave().await;
        }
        found
    }

    fn own_gateway(&self) -> Option<Address> {
        match self.config.targets.first() {
            Some(Address::Tcp { host, .. }) => {
                Some(Address::Tcp { host: host.clone(), port: HBONE_PORT })
            }
            _ => None,
        }
    }

    async fn probe_plain(&self) -> Result<Option<Parting>, String> {
        let mut reached = Err(String::from("there is no target"));
        for target in self.targets.all() {
            let tcp = reach::plain(self, &target.address).await;
            reached = tcp.map_err(|e| format!("cannot connect to {}: {e}", target.address));
            if reached.is_ok() {
                break;
            }
        }
        let stream = reached?;
        let Some(url) = &self.config.target_status else {
            return Ok(Some(Parting::Plain(stream)));
        };
        let tls = url.tls.then(|| {
            let options = TlsOptions::default();
            match build(&self.store.current(), Role::Client, &options)? {
                Config::Client(tls) => Ok(tls),
                Config::Server(_) => Err("the mode of the service changed".to_owned()),
            }
        });
        let status = exchange(url, stream, tls.transpose()?, Method::GET, Bytes::new()).await?;
        match status {
            StatusCode::OK => Ok(None),
            other => Err(format!("{}: answered {other}", HttpUrl::to_string(url))),
        }
    }

    /// Whether the target is an accepted one, and how it is left.
    async fn probe_tls(&self) -> Result<(Result<(), String>, Option<Parting>), String> {
        let mut reached = Err(String::from("there is no target"));
        for target in self.targets.all() {
            let secured = reach::tls(self, target, |_| Ok(())).await;
            reached = secured.map_err(|(_, why)| why.unwrap_or_default());
            if reached.is_ok() {
                break;
            }
        }
        let secured = reached?;
        let found = PeerCert::of(&secured.chain).map(Arc::new);
        let local = reach::local_of(&secured);
        let far = SecuredRemote::new(secured).map_err(|e| e.to_string())?;
        if !self.config.access.is_empty() {
            let found = found.ok_or("the target presented no certificate")?;
            let ours = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
            if let Err(why) = admission::judged(self, &found, ours, local).await {
                return Ok((Err(why), Some(Parting::Refused(Box::new(far)))));
            }
        }
        Ok((Ok(()), Some(Parting::Tls(Box::new(far)))))
    }
}
