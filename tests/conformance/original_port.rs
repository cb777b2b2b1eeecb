//! A tunnel at an application's port, where that application may answer or call with TLS of its
//! own, also with an SVID that is good for the mesh.

use std::sync::Arc;

use adit::tls::{Acceptor, Connector, Session, TlsError, TunnelPort};

use crate::{
    records::{SUITES, WITHIN, We, run, tcp},
    svids::{ROOT, spiffe},
};

/// Our end of a handshake with rustls, which has this to offer.
async fn with(we: We, offered: Option<&[u8]>) -> Result<Session, TlsError> {
    let offered: Vec<_> = offered.iter().map(|name| name.to_vec()).collect();
    let ((caller, answerer), own, port) = (tcp().await, ROOT.own("ours"), TunnelPort::Original);
    let (svid, bundles) = (&own.svid, &own.bundles);
    match we {
        We::Call => {
            let mut config = ROOT.rustls_server("theirs", SUITES[0]);
            config.alpn_protocols = offered;
            let (connector, expected) = (Connector::at(port), [spiffe("theirs")]);
            let theirs = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(answerer);
            let ours = connector.connect(caller, svid, bundles, &expected, WITHIN);
            tokio::join!(ours, theirs).0
        }
        We::Answer => {
            let mut config = ROOT.rustls_client("theirs", SUITES[0]);
            config.alpn_protocols = offered;
            let name = "127.0.0.1".try_into().unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let acceptor = Acceptor::at(port);
            let ours = acceptor.accept(answerer, svid, bundles, WITHIN);
            tokio::join!(ours, connector.connect(name, caller)).0
        }
    }
}

#[test]
fn a_tunnel_at_an_applications_port_is_made_only_with_who_names_it() {
    run(async {
        for we in [We::Call, We::Answer] {
            let session = with(we, Some(TunnelPort::Original.alpn())).await.unwrap();
            assert_eq!(session.peer.id, spiffe("theirs"), "{we:?}");
            let Err(error) = with(we, None).await else { panic!("{we:?} without ALPN") };
            assert!(matches!(error, TlsError::NotAtOriginalPort), "{we:?}: {error}");
            let Err(error) = with(we, Some(b"h2")).await else { panic!("{we:?} with h2") };
            assert!(error.to_string().to_lowercase().contains("protocol"), "{we:?}: {error}");
        }
    });
}
