//! The account at the CA, which is made once and kept in its folder.

use std::{fs, path::Path};

use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use instant_acme::{Account, AccountCredentials, Error, NewAccount};

use crate::{
    credentials::{
        acme::{config::AcmeConfig, storage::Storage},
        roots::trusted,
    },
    identity::key_files::{at, bytes},
    tls::web_client,
};

/// The account that is kept, or a new one.
pub(super) async fn account(config: &AcmeConfig, storage: &Storage) -> Result<Account, String> {
    let tls = web_client(trusted(None)?)?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new().with_tls_config((*tls).clone()).https_only();
    let connector = connector.enable_http1().wrap_connector(tcp);
    let http = || Box::new(Client::builder(TokioExecutor::new()).build(connector.clone()));
    let builder = Account::builder_with_http(http());
    let of_ca = |e: &Error| told(&config.directory, e);
    let file = storage.folder.join("account.json");
    if let Some(known) = read(&file)? {
        return builder.from_credentials(known).await.map_err(|e| of_ca(&e));
    }
    let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let made = builder.create(&new, config.directory.clone(), None).await;
    let (account, credentials) = made.map_err(|e| of_ca(&e))?;
    let text = serde_json::to_vec_pretty(&credentials).map_err(|e| e.to_string())?;
    storage.keep(&file, &text)?;
    Ok(account)
}

/// What is kept of an account, if there is one.
fn read(path: &Path) -> Result<Option<AccountCredentials>, String> {
    match fs::exists(path) {
        Ok(false) => Ok(None),
        Ok(true) => {
            let text = bytes(path)?;
            // The parser's own words would hold what it read: the account's key.
            let read = serde_json::from_slice(&text);
            read.map(Some).map_err(|e: serde_json::Error| {
                let (line, column) = (e.line(), e.column());
                at(
                    path,
                    format!(
                        "line {line}, column {column}: not an ACME account; remove the file, \
                         and adit makes a new account"
                    ),
                )
            })
        }
        Err(e) => Err(at(path, e)),
    }
}

/// The error with what lies below it: the CA's URL alone helps nobody.
pub(super) fn told(what: &str, error: &Error) -> String {
    let mut text = format!("{what}: {error}");
    let mut below = std::error::Error::source(error);
    while let Some(error) = below {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        below = error.source();
    }
    text
}
