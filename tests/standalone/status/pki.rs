//! The files of a server `localhost` and a client `spiffe://test/app`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    peers::Caller,
    pki::{self, Ca, dns, uri},
};

/// A CA, a server and a client, with their files.
pub(crate) struct Pki(pki::Pki);

impl Pki {
    pub(crate) fn new() -> Self {
        Self(pki::Pki::of(Ca::new("test CA", None), |ca| {
            let server = ca.leaf("localhost", |p| p.subject_alt_names = vec![dns("localhost")]);
            let app = |p: &mut rcgen::CertificateParams| {
                p.subject_alt_names = vec![dns("app"), uri("spiffe://test/app")];
            };
            (server, ca.leaf("app", app))
        }))
    }

    /// With a server whose certificate ends so long from now.
    pub(crate) fn lasting(self, lasts: Duration) -> Self {
        let server = self.0.ca.leaf("localhost", |p| {
            p.subject_alt_names = vec![dns("localhost")];
            p.not_after = time::OffsetDateTime::now_utc() + lasts;
        });
        self.0.put("server", &server);
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    /// `--cert …` and so on, for `server` or `app`.
    pub(crate) fn flags(&self, who: &str) -> Vec<String> {
        self.0.showing(who).split_whitespace().map(str::to_owned).collect()
    }

    /// What `spiffe://test/app` connects with.
    pub(crate) fn tls(&self) -> Arc<rustls::ClientConfig> {
        Caller::new(&self.0.ca, Some(&self.0.app)).config()
    }
}
