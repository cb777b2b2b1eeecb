//! One order at the CA.

mod account;

use instant_acme::{
    AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use pki_types::PrivateKeyDer;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use rustls::sign::CertifiedKey;

use self::account::{account, told};
use super::{
    challenge::{Challenge, Pending},
    config::AcmeConfig,
    storage::Storage,
};
use crate::{identity::pem, tls::classic_provider};

/// Orders, proves and fetches: the key and the chain, leaf first, as one PEM.
pub(super) async fn place(
    config: &AcmeConfig,
    storage: &Storage,
    pending: &Pending,
) -> Result<String, String> {
    let account = account(config, storage).await?;
    let names = [Identifier::Dns(config.name.clone())];
    let ordered = account.new_order(&NewOrder::new(&names)).await;
    let mut order = ordered.map_err(|e| told("the order", &e))?;
    prove(&mut order, pending).await?;
    let ready = order.poll_ready(&RetryPolicy::default()).await;
    if ready.map_err(|e| told("the challenge", &e))? != OrderStatus::Ready {
        return Err(refusal(&mut order).await);
    }
    let key = KeyPair::generate().map_err(|e| e.to_string())?;
    let mut wanted =
        CertificateParams::new(vec![config.name.clone()]).map_err(|e| e.to_string())?;
    wanted.distinguished_name = DistinguishedName::new();
    if config.name.len() <= 64 {
        wanted.distinguished_name.push(DnType::CommonName, config.name.as_str());
    }
    let request = wanted.serialize_request(&key).map_err(|e| e.to_string())?;
    order.finalize_csr(request.der()).await.map_err(|e| told("the certificate", &e))?;
    let chain = order.poll_certificate(&RetryPolicy::default()).await;
    let chain = chain.map_err(|e| told("the certificate", &e))?;
    // What is kept is the last good one: nothing that could not be served takes its place.
    if chain.len() > LONGEST_CHAIN {
        return Err(format!("the CA's chain is longer than {LONGEST_CHAIN} bytes"));
    }
    let read = pem::certificates(chain.as_bytes());
    let read = read.map_err(|e| format!("the CA's chain cannot be read: {e}"))?;
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    CertifiedKey::from_der(read, private, &classic_provider())
        .and_then(|certified| certified.keys_match())
        .map_err(|e| format!("the CA's certificate cannot be used: {e}"))?;
    Ok(key.serialize_pem() + &chain)
}

/// The longest chain that is taken, bytes; files of certificates are read up to 1 MiB.
const LONGEST_CHAIN: usize = 256 << 10;

/// Has the CA look whether the name is ours.
async fn prove(order: &mut Order, pending: &Pending) -> Result<(), String> {
    let mut authorizations = order.authorizations();
    while let Some(found) = authorizations.next().await {
        let mut found = found.map_err(|e| told("the authorization", &e))?;
        match found.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Invalid => return Err("the authorization is invalid".into()),
            AuthorizationStatus::Revoked => return Err("the authorization was revoked".into()),
            AuthorizationStatus::Expired => return Err("the authorization expired".into()),
            AuthorizationStatus::Deactivated => {
                return Err("the authorization was deactivated".into());
            }
        }
        let mut asked = found
            .challenge(ChallengeType::TlsAlpn01)
            .ok_or("the CA does not offer TLS-ALPN-01 for this name")?;
        let asked_for = asked.identifier();
        let name = match asked_for.identifier {
            Identifier::Dns(name) => name.clone(),
            _ => return Err(format!("the CA asks to verify {asked_for}, which was not ordered")),
        };
        let challenge = Challenge::new(&name, asked.key_authorization().digest().as_ref())?;
        pending.store(Some(std::sync::Arc::new(challenge)));
        asked.set_ready().await.map_err(|e| told("the challenge", &e))?;
    }
    Ok(())
}

/// Why the CA found that the name is not ours.
async fn refusal(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut found)) = authorizations.next().await {
        let _ = found.refresh().await;
        let asked = found.challenges.iter().find(|c| c.r#type == ChallengeType::TlsAlpn01);
        if let Some(problem) = asked.and_then(|c| c.error.as_ref()) {
            return format!("the CA could not verify the name by TLS-ALPN-01: {problem}");
        }
    }
    "the CA could not verify the name by TLS-ALPN-01".into()
}
