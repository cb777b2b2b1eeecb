//! adit's own SVID, from the Workload API, and the connections that are made with it
//! (Broker Endpoint §3.1, §5). A new SVID, or other bundles, make new connections; who holds a
//! stream moves it over.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig,
    client::Resumption,
    crypto::aws_lc_rs::sign::any_supported_type,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    net::UnixStream,
    sync::{Notify, watch},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint};

use super::{config::BrokerConfig, endpoint::BrokerEndpoint};
use crate::{
    credentials::workload_api::{
        client::{Client, ClientError, X509Context},
        source::{HOPELESS, LONGEST, begun, waits},
    },
    identity::{BundleSet, Purpose, X509Svid, verify_svid},
    lifecycle::dial,
    tls::{only_server, web_provider},
};

/// How long a connection may take, handshake included.
const CONNECT: Duration = Duration::from_secs(5);
/// As many pods share a connection: two streams each, and calls, below the hundred streams that
/// every server allows (RFC 9113 §6.5.2).
const PODS_PER_CONNECTION: usize = 40;

/// The way to the provider, or why there is none; `None` before the Workload API has answered.
pub(super) type LocalIdentity = Option<Result<Arc<ProviderConnections>, String>>;

/// Connections that show one SVID of adit's.
pub(super) struct ProviderConnections {
    socket: BrokerEndpoint,
    tls: Arc<ClientConfig>,
    channels: Mutex<Vec<Channel>>,
}

impl ProviderConnections {
    /// The connection for the pod in this place. Needs a running runtime.
    pub(super) fn channel(&self, slot: usize) -> Channel {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let at = slot / PODS_PER_CONNECTION;
        while channels.len() <= at {
            channels.push(connect(&self.socket, &self.tls));
        }
        channels[at].clone()
    }
}

fn connect(socket: &BrokerEndpoint, tls: &Arc<ClientConfig>) -> Channel {
    let (socket, tls) = (socket.clone(), Arc::clone(tls));
    let endpoint = Endpoint::from_static("https://broker")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let (socket, tls) = (socket.clone(), Arc::clone(&tls));
        async move {
            let connect = async {
                let stream = match &socket {
                    BrokerEndpoint::Unix(path) => Either::Left(UnixStream::connect(path).await?),
                    BrokerEndpoint::Tcp { host, port } => {
                        let tcp = dial::connect(host, *port).await?;
                        tcp.set_nodelay(true)?;
                        Either::Right(tcp)
                    }
                };
                // Names play no part between SVIDs, and none is sent.
                let name = ServerName::try_from("broker").map_err(io::Error::other)?;
                TlsConnector::from(tls).connect(name, stream).await
            };
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection within 5 s");
            timeout(CONNECT, connect).await.map_err(late)?.map(TokioIo::new)
        }
    }))
}

/// Follows the Workload API.
pub(super) struct LocalIdentityFollower {
    pub(super) client: Client,
    pub(super) config: BrokerConfig,
    pub(super) say: watch::Sender<LocalIdentity>,
    /// The provider does not take what is there.
    pub(super) refresh: Arc<Notify>,
}

impl LocalIdentityFollower {
    pub(super) async fn run(self) {
        let mut waits_left = waits();
        let mut known = None;
        loop {
            let error = match begun(self.client.x509()).await {
                Err(error) => Some(error),
                Ok(mut updates) => loop {
                    let context = tokio::select! {
                        context = updates.next() => context,
                        () = self.refresh.notified() => break None,
                    };
                    match context.and_then(|context| self.take(context, &mut known)) {
                        Ok(()) => waits_left = waits(),
                        // One message that is not used: the next may be.
                        Err(error @ ClientError::Unusable(_)) => self.failed(&error),
                        Err(error) => break Some(error),
                    }
                },
            };
            let again = error.as_ref().is_none_or(ClientError::retry);
            if let Some(error) = &error {
                if error.denied() {
                    known = None;
                    let why = format!("the Workload API has no SVID for adit itself: {error}");
                    tracing::warn!(
                        target: "svid", error = why,
                        "the Broker API can no longer be reached"
                    );
                    self.say.send_replace(Some(Err(why)));
                } else {
                    self.failed(error);
                }
            }
            let wait = if again { waits_left.next().unwrap_or(LONGEST) } else { HOPELESS };
            tokio::time::sleep(wait).await;
        }
    }

    /// The default identity (Workload API §5.3), if it is another than before.
    fn take(
        &self,
        context: X509Context,
        known: &mut Option<(Vec<CertificateDer<'static>>, BundleSet)>,
    ) -> Result<(), ClientError> {
        let X509Context { svids, bundles } = context;
        let unusable = |why: String| ClientError::Unusable(format!("adit's own SVID: {why}"));
        let own = svids.into_iter().next().ok_or_else(|| unusable("there is none".into()))?.svid;
        let now = Some((own.chain.clone(), bundles));
        if *known == now {
            return Ok(());
        }
        let Some((_, bundles)) = &now else { return Ok(()) };
        verify_svid(&own.chain, bundles, UnixTime::now(), Purpose::Client)
            .map_err(|e| unusable(e.to_string()))?;
        let tls = self.tls(&own, bundles.clone()).map_err(|e| unusable(e.to_string()))?;
        tracing::info!(
            target: "svid", identity = %own.id, serial = own.serial,
            "adit's own SVID for the Broker API"
        );
        let socket = self.config.socket.clone();
        let connections =
            ProviderConnections { socket, tls: Arc::new(tls), channels: Mutex::default() };
        self.say.send_replace(Some(Ok(Arc::new(connections))));
        *known = now;
        Ok(())
    }

    /// What is there stays, though it runs out in the end.
    fn failed(&self, error: &ClientError) {
        tracing::warn!(
            target: "svid", %error,
            "adit's own SVID for the Broker API was not renewed"
        );
        self.say.send_if_modified(|own| {
            let none = !matches!(own, Some(Ok(_)));
            if none {
                *own = Some(Err(format!("adit has no SVID of its own: {error}")));
            }
            none
        });
    }

    fn tls(&self, own: &X509Svid, bundles: BundleSet) -> Result<ClientConfig, rustls::Error> {
        let key = any_supported_type(&PrivateKeyDer::Pkcs8(own.key.pkcs8().into()))?;
        let own = Arc::new(CertifiedKey::new(own.chain.clone(), key));
        let mut config = ClientConfig::builder_with_provider(web_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(only_server(self.config.provider_id.clone(), bundles))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}
