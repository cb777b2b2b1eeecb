//! Many full handshakes at once against a running HBONE port, for `scripts/handshake_burst.sh`.
//! The first flights are made in advance; a line on standard input lets them all go.

use std::{io::Read, net::SocketAddr, sync::Arc, time::Instant};

use pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use tokio::net::{TcpSocket, TcpStream};

/// `ADDR COUNT PREFIX`: the SVID in `PREFIX.pem` and `PREFIX-key.pem` makes COUNT handshakes.
pub(crate) fn run(args: &[String]) {
    let [addr, count, prefix] = args else { panic!("burst ADDR COUNT PREFIX") };
    let addr: SocketAddr = addr.parse().expect("an address");
    let config = Arc::new(config(prefix));
    let name = ServerName::IpAddress(addr.ip().into());
    let count: usize = count.parse().expect("a count");
    let calls: Vec<_> = (0..count).map(|_| Call::new(&config, &name)).collect();
    println!("ready");
    std::io::stdin().read_exact(&mut [0]).expect("a line that says go");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let begin = Instant::now();
        let done = calls.into_iter().map(|call| call.finish(addr));
        let done = futures_util::future::join_all(done).await;
        let failed: Vec<_> = done.iter().filter_map(|one| one.as_ref().err()).collect();
        failed.iter().take(3).for_each(|why| eprintln!("a handshake failed: {why}"));
        println!(
            r#"{{"handshakes":{count},"failed":{},"seconds":{:.3}}}"#,
            failed.len(),
            begin.elapsed().as_secs_f64()
        );
        assert!(failed.is_empty(), "{} handshakes failed", failed.len());
    });
}

/// One end, with its ClientHello.
struct Call {
    tls: ClientConnection,
    hello: Vec<u8>,
}

impl Call {
    fn new(config: &Arc<ClientConfig>, name: &ServerName<'static>) -> Self {
        let tls = ClientConnection::new(Arc::clone(config), name.clone());
        let (mut tls, mut hello) = (tls.expect("a client"), Vec::new());
        tls.write_tls(&mut hello).expect("memory");
        Self { tls, hello }
    }

    /// Until the server's HTTP/2 preface is there: then both ends have proven who they are.
    async fn finish(mut self, addr: SocketAddr) -> Result<(), String> {
        let tcp = connect(addr).await.map_err(|e| format!("connect: {e}"))?;
        let mut said = std::mem::take(&mut self.hello);
        loop {
            let mut sent = 0;
            while sent < said.len() {
                tcp.writable().await.map_err(|e| e.to_string())?;
                sent += tcp.try_write(&said[sent..]).or_else(again)?;
            }
            said.clear();
            tcp.readable().await.map_err(|e| e.to_string())?;
            let mut heard = Vec::with_capacity(16_384);
            match tcp.try_read_buf(&mut heard) {
                Ok(0) => return Err("closed".to_owned()),
                read => read.or_else(again)?,
            };
            let mut rest = &heard[..];
            while !rest.is_empty() {
                self.tls.read_tls(&mut rest).map_err(|e| e.to_string())?;
                let state = self.tls.process_new_packets().map_err(|e| e.to_string())?;
                if state.plaintext_bytes_to_read() > 0 {
                    return Ok(());
                }
            }
            while self.tls.wants_write() {
                self.tls.write_tls(&mut said).map_err(|e| e.to_string())?;
            }
        }
    }
}

fn again(error: std::io::Error) -> Result<usize, String> {
    if error.kind() == std::io::ErrorKind::WouldBlock { Ok(0) } else { Err(error.to_string()) }
}

/// Past the capture rules of the pod that we are in, as a peer from elsewhere would come.
async fn connect(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket2::SockRef::from(&socket).set_mark(adit::sys::sockets::MARK)?;
    socket.set_nodelay(true)?;
    socket.connect(addr).await
}

fn config(prefix: &str) -> ClientConfig {
    let chain = CertificateDer::pem_file_iter(format!("{prefix}.pem")).expect("a certificate");
    let chain = chain.collect::<Result<_, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_file(format!("{prefix}-key.pem")).expect("a key");
    let mut config = ClientConfig::builder_with_provider(super::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(chain, key)
        .expect("a usable certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// Checks nothing: it is the server's work that is measured, on the same cores.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: pki_types::UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
