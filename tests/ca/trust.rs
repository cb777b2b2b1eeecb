//! A CA whose authorities and CRLs change while it serves.

use std::time::Duration;

use adit::credentials::{Istiod, Roots};
use serde_json::Value;

use crate::{
    bans::{becomes, follow},
    issuer::{Issuer, claims},
    server::{CaServer, fetch, id},
    wait::{LIMIT, wait_until_async},
};

#[tokio::test]
async fn an_svid_that_was_revoked_gets_no_other() {
    let server = CaServer::start(&[]);
    let host = id("host/a");
    let client = server.client(&server.join_token(&host, "1m"));
    fetch(&client, &host).await.unwrap();
    // Renewed by itself, as long as nobody minds.
    fetch(&client, &host).await.unwrap();
    let mut told = follow(&client);
    server.ca(&["ban", host.as_str()]);
    becomes(&mut told, &[&host]).await;
    server.ca(&["unban", host.as_str()]);
    // The host may have an SVID again, but whoever holds the old one may not be it.
    let other = async || !fetch(&client, &host).await.unwrap_err().is_ban();
    wait_until_async("it is refused for something else than the ban", LIMIT, other).await;
    let of = |l: &Value| l["message"] == "request refused" && l.to_string().contains("revoked");
    server.line("of the refusal", of);
}

/// Clients that trust the file that the CA keeps, and one that has a copy of the first root.
#[tokio::test]
async fn a_client_that_trusts_the_bundle_file_outlives_the_first_root() {
    let issuer = Issuer::new("k1");
    let server = CaServer::start(&[&issuer]);
    let web = id("ns/shop/sa/web");
    let token = server.file("token");
    std::fs::write(&token, issuer.sign(&claims("shop", "web", "web-1", "n1"))).unwrap();
    let with = |roots: &str| {
        let roots = server.file(roots);
        // Each with a connection of its own, as after a restart of either end.
        let mut config = server.config(token.clone());
        config.server.roots = Roots::File(roots);
        Istiod::new(config)
    };
    std::fs::copy(server.file("ca/root.pem"), server.file("copy.pem")).unwrap();
    let all = async |files: &[&str]| {
        for file in files {
            fetch(&with(file), &web).await.unwrap_or_else(|e| panic!("{file}: {e}"));
        }
    };
    let both = ["ca/bundle.pem", "copy.pem"];
    all(&both).await;
    let signer = async || {
        let svid = fetch(&with("ca/bundle.pem"), &web).await.expect("an SVID");
        authority_key(&svid.chain[0])
    };
    let first = signer().await;
    server.ca(&["prepare"]);
    all(&both).await;
    // So long an authority must have been known before it may sign.
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.ca(&["activate"]);
    wait_until_async("the next authority signs", LIMIT, async || signer().await != first).await;
    all(&both).await;
    server.ca(&["taint"]);
    // The server's own certificate leaves a tainted authority.
    let left = async || fetch(&with("copy.pem"), &web).await.is_err();
    wait_until_async("the copy of the first root is of no use", LIMIT, left).await;
    all(&both[..1]).await;
    server.ca(&["revoke"]);
    all(&both[..1]).await;
    let error = fetch(&with("copy.pem"), &web).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

/// The key of the authority that signed `certificate`.
fn authority_key(certificate: &[u8]) -> Vec<u8> {
    use x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
    let key = parsed.extensions().iter().find_map(|e| match e.parsed_extension() {
        AuthorityKeyIdentifier(a) => a.key_identifier.as_ref().map(|k| k.0.to_vec()),
        _ => None,
    });
    key.expect("an authority key identifier")
}

/// What resumes a session shows no chain.
#[tokio::test]
async fn no_ticket_is_offered() {
    let full = (Some(rustls::HandshakeKind::Full), 0);
    assert_eq!(crate::raw::twice(&CaServer::start(&[])).await, [full; 2]);
}
