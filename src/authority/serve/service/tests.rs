use std::sync::Arc;

use super::*;
use crate::{
    authority::serve::{Attestors, authorize::IssuingRules, conn::Stay},
    lifecycle::Places,
};

fn ca(dir: &std::path::Path) -> Arc<EmbeddedCa> {
    let domain = "td".parse().unwrap();
    Arc::new(EmbeddedCa::open(dir, &domain, Duration::from_secs(60)).unwrap())
}

fn service(ca: &Arc<EmbeddedCa>, svid: bool) -> CaService {
    let trust_domain = "td".parse().unwrap();
    let config = ServerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        names: Vec::new(),
        svid_lifetime: Duration::from_secs(60),
        rules: IssuingRules { trust_domain, trusted_node_accounts: Default::default() },
        attestors: Attestors { kubernetes: None, join: None, svid },
    };
    let configs = watch::channel(Arc::new(config)).1;
    let metrics = Arc::new(Metrics::new().unwrap());
    CaService::new(Arc::clone(ca), configs, Pods::default(), metrics)
}

fn showing(chain: &[CertificateDer<'static>]) -> CaClient {
    let addr: std::net::SocketAddr = "10.0.0.9:999".parse().unwrap();
    let place = Places::new(1, 1).take(addr.ip()).unwrap();
    CaClient { addr, chain: Some(chain.into()), stay: Stay::new(place) }
}

/// Whatever the handshake thought of it, and only where the file offers it.
#[test]
fn a_chain_is_proof_once_it_is_verified_and_where_it_is_asked_for() {
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id: SpiffeId = "spiffe://td/host/a".parse().unwrap();
    let (ca, stranger) = (ca(here.path()), ca(elsewhere.path()));
    let own = showing(&ca.issue(&id).unwrap().chain);
    assert_eq!(service(&ca, true).by_svid(&own).unwrap(), AuthenticatedCaller::Svid(id.clone()));
    let refused = |svid, peer: &CaClient| service(&ca, svid).by_svid(peer).unwrap_err().reason();
    assert_eq!(refused(false, &own), "no_credentials");
    let nobody = CaClient { chain: None, ..own };
    assert_eq!(refused(true, &nobody), "no_credentials");
    let forged = showing(&stranger.issue(&id).unwrap().chain);
    assert_eq!(refused(true, &forged), "svid_not_valid");
    assert_eq!(refused(true, &showing(&[])), "svid_not_valid");
}

/// By its address as long as it proves nothing, by its name then.
#[tokio::test]
async fn who_asks_too_often_is_not_looked_at_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let id: SpiffeId = "spiffe://td/host/a".parse().unwrap();
    let ca = ca(dir.path());
    let service = service(&ca, true);
    let own = showing(&ca.issue(&id).unwrap().chain);
    let nobody = CaClient { chain: None, ..own.clone() };
    let address = format!("from {}", own.addr.ip());
    let who = async |peer: &CaClient| {
        let asked = service.who(&Request::new(()), peer).await;
        asked.map(drop).map_err(|refusal| refusal.reason())
    };
    let drained = |whose: &str| {
        let took = |_: &u32| service.rates().take(whose, Instant::now());
        (0..).take_while(took).count()
    };
    // A good caller uses nothing of its address's up, a bad one does.
    assert_eq!(who(&own).await, Ok(()));
    assert!(drained(&address) >= 2_000);
    let ask = async |peer: &CaClient| {
        let request = Request::new(IstioCertificateRequest::default());
        let answered = service.answer(request, peer, &mut CallTrace::default()).await;
        answered.map(drop).map_err(|refusal| refusal.reason())
    };
    let elsewhere = CaClient { addr: "10.0.0.8:999".parse().unwrap(), ..own.clone() };
    let (mut bad, mut good, mut busy) = (false, false, false);
    // Some of it comes back in each hundredth of a second that we are kept from running.
    for _ in 0..1_000 {
        drained(&address);
        bad |= who(&nobody).await == Err("rate_limited");
        drained(&address);
        good |= who(&own).await == Err("rate_limited");
        drained(id.as_str());
        busy |= ask(&elsewhere).await == Err("rate_limited");
        if bad && good && busy {
            break;
        }
    }
    assert!(bad && good, "nothing of that address is looked at");
    assert!(busy, "nor of that caller, wherever it is");
    assert_eq!(who(&elsewhere).await, Ok(()), "others may ask");
}
