//! Servers of the Workload API that do wrong, made with tonic.

use std::{collections::HashMap, pin::Pin, sync::Arc, thread::JoinHandle, time::Duration};

use adit::rpc::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
    ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
    X509svid, X509svidRequest, X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use futures_util::{Stream, StreamExt, stream};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose as Ku, SanType,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

type Feed<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send + 'static>>;

/// A server on a socket of its own, ended when dropped.
pub(crate) struct Running {
    dir: tempfile::TempDir,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.dir.path().join("s").display())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

pub(crate) fn serve(api: impl SpiffeWorkloadApi) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = tokio::net::UnixListener::from_std(socket).unwrap();
            let incoming = tokio_stream::wrappers::UnixListenerStream::new(socket);
            let server = tonic::transport::Server::builder()
                .add_service(SpiffeWorkloadApiServer::new(api))
                .serve_with_incoming(incoming);
            stopped.run_until_cancelled(server).await;
        });
    });
    Running { dir, stop, thread: Some(thread) }
}

/// What a check must say of [`Wrong`].
pub(crate) struct Expected {
    pub(crate) fails: &'static [&'static str],
    pub(crate) warns: &'static [&'static str],
}

/// Ignores the header, and has a fault in each message.
pub(crate) struct Wrong(Arc<X509svidResponse>);

impl Wrong {
    pub(crate) fn new() -> (Self, Expected) {
        let root_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![Ku::KeyCertSign];
        let root = params.self_signed(&root_key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, root_key);
        let svid = |uris: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
            params.subject_alt_names = uris.iter().map(uri).collect();
            params.key_usages = vec![Ku::DigitalSignature];
            let cert = params.signed_by(&key, &issuer).unwrap();
            X509svid {
                spiffe_id: uris[0].to_owned(),
                x509_svid: cert.der().to_vec(),
                x509_svid_key: key.serialize_der(),
                bundle: root.clone(),
                hint: "internal".into(),
            }
        };
        let good = svid(&["spiffe://td/b"]);
        let other_key = KeyPair::generate().unwrap().serialize_der();
        let svids = vec![
            svid(&["spiffe://td/a", "spiffe://td/b"]),
            X509svid { x509_svid_key: other_key, ..good.clone() },
            X509svid { spiffe_id: "spiffe://td/c".into(), hint: "h".repeat(1025), ..good.clone() },
            X509svid { bundle: Vec::new(), hint: String::new(), ..good },
        ];
        let federated_bundles = HashMap::from([("other.td".to_owned(), root.clone())]);
        let message = X509svidResponse { svids, crl: vec![b"no CRL".to_vec()], federated_bundles };
        let fails = &[
            "FetchX509SVID without the header",
            "FetchX509SVID with the header `True`",
            "FetchX509SVID with the header `1`",
            "FetchX509Bundles without the header",
            "FetchJWTSVID without the header",
            "FetchJWTBundles without the header",
            "ValidateJWTSVID without the header",
            "svid 0: exactly one URI SAN",
            "svid 1: key belongs to the certificate",
            "svid 2: spiffe_id names the certificate",
            "svid 2: hint has at most 1024 bytes",
            "svid 3: mandatory fields",
            "FetchX509SVID: hints are unique",
            "federated_bundles: keys are trust domains, values are DER",
            "crl is DER",
            "bundles of FetchX509SVID and FetchX509Bundles agree",
            "FetchJWTBundles: keys and key sets are valid",
            "FetchJWTBundles includes the caller's own trust domain",
            "FetchJWTSVID without an audience",
            "FetchJWTSVID for a malformed spiffe_id",
            "FetchJWTSVID for a foreign spiffe_id",
            "FetchJWTSVID for one identity",
            "token 0: header is strict JSON",
            "token 0: spiffe_id is the token's sub",
            "ValidateJWTSVID of a good token",
            "ValidateJWTSVID of a tampered token",
            "ValidateJWTSVID of another audience",
            "ValidateJWTSVID of garbage",
            "ValidateJWTSVID of no audience",
            "ValidateJWTSVID of no token",
        ];
        let warns = &[
            "FetchX509SVID with the header twice",
            "FetchX509SVID: the stream stays open and quiet",
            "svid 1: extended key usage",
            "reflection is offered",
        ];
        (Self(Arc::new(message)), Expected { fails, warns })
    }
}

fn once<M: Send + 'static>(message: M) -> Feed<M> {
    Box::pin(stream::iter([Ok(message)]).chain(stream::pending()))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Wrong {
    type FetchX509SVIDStream = Feed<X509svidResponse>;
    type FetchX509BundlesStream = Feed<X509BundlesResponse>;
    type FetchJWTBundlesStream = Feed<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Feed<X509svidResponse>>, Status> {
        let message = Arc::clone(&self.0);
        let again = stream::unfold(0, move |n| {
            let message = Arc::clone(&message);
            async move {
                tokio::time::sleep(Duration::from_millis(100 * n.min(1))).await;
                Some((Ok((*message).clone()), n + 1))
            }
        });
        Ok(Response::new(Box::pin(again)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Feed<X509BundlesResponse>>, Status> {
        let leaf = self.0.svids[0].x509_svid.clone();
        let bundles = HashMap::from([("spiffe://td".to_owned(), leaf)]);
        Ok(Response::new(once(X509BundlesResponse { crl: Vec::new(), bundles })))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Feed<JwtBundlesResponse>>, Status> {
        let set = br#"{"keys":[{"kty":"EC","use":"x509-svid"}]}"#.to_vec();
        let bundles = HashMap::from([("spiffe://other".to_owned(), set)]);
        Ok(Response::new(once(JwtBundlesResponse { bundles })))
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let (spiffe_id, svid) = ("spiffe://td/z".to_owned(), "a.b.c".to_owned());
        let svids = vec![Jwtsvid { spiffe_id, svid, hint: String::new() }];
        Ok(Response::new(JwtsvidResponse { svids }))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let spiffe_id = "spiffe://td/z".to_owned();
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id, claims: None }))
    }
}

/// Accepts each call and never answers.
pub(crate) struct Hangs;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Hangs {
    type FetchX509SVIDStream = Feed<X509svidResponse>;
    type FetchX509BundlesStream = Feed<X509BundlesResponse>;
    type FetchJWTBundlesStream = Feed<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Feed<X509svidResponse>>, Status> {
        Ok(Response::new(Box::pin(stream::pending())))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Feed<X509BundlesResponse>>, Status> {
        std::future::pending().await
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Feed<JwtBundlesResponse>>, Status> {
        std::future::pending().await
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        std::future::pending().await
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        std::future::pending().await
    }
}

/// Gives very many empty SVIDs, and says the rest in words that steer terminals.
pub(crate) struct Shouts;

pub(crate) const SHOUT: &str = "\u{1b}[2J\u{9b}31m\r\u{202e}owned\u{7}";

fn shout<T>() -> Result<T, Status> {
    Err(Status::internal(SHOUT))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Shouts {
    type FetchX509SVIDStream = Feed<X509svidResponse>;
    type FetchX509BundlesStream = Feed<X509BundlesResponse>;
    type FetchJWTBundlesStream = Feed<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Feed<X509svidResponse>>, Status> {
        let (svids, key) = (vec![X509svid::default(); 100_000], SHOUT.to_owned());
        let federated_bundles = HashMap::from([(key, Vec::new())]);
        Ok(Response::new(once(X509svidResponse { svids, federated_bundles, ..Default::default() })))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Feed<X509BundlesResponse>>, Status> {
        Ok(Response::new(once(X509BundlesResponse::default())))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Feed<JwtBundlesResponse>>, Status> {
        shout()
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let svids = vec![Jwtsvid {
            spiffe_id: "spiffe://td/a".into(),
            svid: "a".into(),
            hint: SHOUT.into(),
        }];
        Ok(Response::new(JwtsvidResponse { svids }))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        shout()
    }
}
