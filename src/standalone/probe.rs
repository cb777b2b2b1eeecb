//! Whether a service's target answers now: what `/_status` asks, without a connection to carry.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::net::TcpStream;

use super::{
    Address, PeerCert, Role, SecuredFar, Service, TlsOptions, connection, endpoint,
    status::{HttpUrl, exchange},
    targets::Target,
    tls::{Config, build},
    via,
};
use crate::{tls::secured, tunnel::HBONE_PORT};

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
                (Role::Server, _) => self.probe_plain().await,
                (Role::Client, None) => self.probe_tls(limit).await,
                (Role::Client, Some(hbone)) => {
                    let gateway = hbone.gateway.clone().or_else(|| self.own_gateway());
                    let gateway = gateway.ok_or("the target is no HOST:PORT")?;
                    endpoint::connect(&gateway).await.map_err(|e| format!("{gateway}: {e}"))?;
                    Ok(())
                }
            }
        };
        let late = |_| format!("no answer within {}", humantime::format_duration(limit));
        tokio::time::timeout(limit, asked).await.map_err(late)?
    }

    fn own_gateway(&self) -> Option<Address> {
        match self.config.targets.first() {
            Some(Address::Tcp { host, .. }) => {
                Some(Address::Tcp { host: host.clone(), port: HBONE_PORT })
            }
            _ => None,
        }
    }

    async fn reach(&self) -> Result<(TcpStream, &Target), String> {
        let mut last = String::from("there is no target");
        for target in self.targets.all() {
            match via::connect(self.config.proxy.as_ref(), &target.address).await {
                Ok(stream) => return Ok((stream, target)),
                Err(error) => last = format!("connect to {}: {error}", target.address),
            }
        }
        Err(last)
    }

    async fn probe_plain(&self) -> Result<(), String> {
        let (stream, _) = self.reach().await?;
        let Some(url) = &self.config.target_status else { return Ok(()) };
        let tls = url.tls.then(|| {
            let options = TlsOptions::default();
            match build(&self.keeper.current(), Role::Client, &options)? {
                Config::Client(tls) => Ok(tls),
                Config::Server(_) => Err("the role changed".to_owned()),
            }
        });
        let status = exchange(url, stream, tls.transpose()?, Method::GET, Bytes::new()).await?;
        match status {
            StatusCode::OK => Ok(()),
            other => Err(format!("{}: answered {other}", HttpUrl::to_string(url))),
        }
    }

    async fn probe_tls(&self, limit: Duration) -> Result<(), String> {
        let Config::Client(config) = self.tls()? else { return Err("the role changed".into()) };
        let said = |(_, why): connection::Outcome| why.unwrap_or_default();
        let (tcp, target) = self.reach().await?;
        let name = connection::server_name(self, target).map_err(said)?;
        let secured = secured::connect(tcp, config, name, limit).await;
        let secured = secured.map_err(|e| e.to_string())?;
        let found = PeerCert::of(&secured.chain).map(Arc::new);
        let local = connection::local_of(&secured);
        let far = SecuredFar::new(secured).map_err(|e| e.to_string())?;
        if !self.config.access.is_empty() {
            let found = found.ok_or("the target showed no certificate")?;
            let ours = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
            if let Err(why) = connection::judged(self, &found, ours, local).await {
                far.refuse();
                return Err(why);
            }
        }
        far.end();
        Ok(())
    }
}
