//! A CA whose authorities and CRLs change while it serves.

use std::time::Duration;

use crate::server::{CaServer, fetch, id};

#[tokio::test]
async fn an_svid_that_was_revoked_gets_no_other() {
    let server = CaServer::start(&[]);
    let host = id("host/a");
    let client = server.client(&server.join_token(&host, "1m"));
    fetch(&client, &host).await.unwrap();
    // Renewed by itself, as long as nobody minds.
    fetch(&client, &host).await.unwrap();
    server.ca(&["ban", host.as_str()]);
    server.ca(&["unban", host.as_str()]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The host may have an SVID again, but whoever holds the old one may not be it.
    fetch(&client, &host).await.unwrap_err();
    let refused = server.line("of the refusal", |l| l["message"] == "refused");
    assert!(refused.to_string().contains("revoked"), "{refused}");
}
