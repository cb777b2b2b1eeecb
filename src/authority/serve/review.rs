//! TokenReview: the API server judges a token, and knows whether its pod still lives.

use std::path::PathBuf;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{authorize::PodToken, https::Endpoint, token::TokenError};
use crate::credentials::dial;

/// Which API server, and who asks it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Review {
    /// Its address; the path is that of TokenReviews.
    pub endpoint: Endpoint,
    /// The file with the CA's own token; read each time.
    pub token: PathBuf,
}

/// Where TokenReviews are posted.
pub const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

impl Review {
    pub(super) async fn judge(&self, token: &str, audience: &str) -> Result<PodToken, TokenError> {
        let own = dial::read_small(&self.token)
            .map_err(|e| TokenError::NoReview(format!("adit's own service-account token: {e}")))?;
        let own = Zeroizing::new(own);
        let own = std::str::from_utf8(&own).map_err(|_| {
            TokenError::NoReview("adit's own service-account token: not text".into())
        })?;
        let ask = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [audience] },
        });
        let answer = self.endpoint.ask(Some(own.trim()), Some(ask.to_string().into_bytes())).await;
        read(&answer.map_err(TokenError::NoReview)?, audience)
    }
}

/// What a TokenReview says. Pure.
fn read(answer: &[u8], audience: &str) -> Result<PodToken, TokenError> {
    let answer: Value = serde_json::from_slice(answer)
        .map_err(|e| TokenError::NoReview(format!("its answer is not JSON: {e}")))?;
    let status = &answer["status"];
    if status["authenticated"] != json!(true) {
        let why = status["error"].as_str().unwrap_or("no reason given");
        return Err(TokenError::Rejected(why.chars().take(300).collect()));
    }
    // An API server that does not know audiences leaves the list out: then nothing was checked.
    let audiences = status["audiences"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !audiences.contains(&json!(audience)) {
        return Err(TokenError::Audience(audience.to_owned()));
    }
    let malformed = |what: &str| TokenError::Malformed(format!("its review has no {what}"));
    let name = status["user"]["username"].as_str().ok_or_else(|| malformed("user"))?;
    let account = name.strip_prefix("system:serviceaccount:").and_then(|n| n.split_once(':'));
    let (namespace, service_account) = account.ok_or_else(|| malformed("service account"))?;
    let extra = |key: &str| {
        let values = &status["user"]["extra"][format!("authentication.kubernetes.io/{key}")];
        Some(values[0].as_str()?.to_owned()).filter(|text| !text.is_empty())
    };
    Ok(PodToken {
        namespace: namespace.into(),
        service_account: service_account.into(),
        pod: extra("pod-name").ok_or(TokenError::Unbound)?,
        uid: extra("pod-uid").ok_or(TokenError::Unbound)?,
        node: extra("node-name"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_review_says() {
        let good = json!({ "status": {
            "authenticated": true, "audiences": ["istio-ca"],
            "user": { "username": "system:serviceaccount:shop:web", "extra": {
                "authentication.kubernetes.io/pod-name": ["web-1"],
                "authentication.kubernetes.io/pod-uid": ["u"],
                "authentication.kubernetes.io/node-name": ["n1"],
            } },
        } });
        let read = |change: fn(&mut Value)| {
            let mut answer = good.clone();
            change(&mut answer["status"]);
            super::read(answer.to_string().as_bytes(), "istio-ca")
        };
        assert_eq!(read(|_| ()).unwrap().node.as_deref(), Some("n1"));
        let refused: [fn(&mut Value); 6] = [
            |s| s["authenticated"] = json!(false),
            |s| s["authenticated"] = json!("true"),
            |s| s["audiences"] = Value::Null,
            |s| s["audiences"] = json!(["api"]),
            |s| s["user"]["extra"] = Value::Null,
            |s| s["user"]["username"] = json!("admin"),
        ];
        refused.into_iter().for_each(|change| assert!(read(change).is_err()));
        assert!(super::read(b"<html>", "istio-ca").is_err());
    }
}
