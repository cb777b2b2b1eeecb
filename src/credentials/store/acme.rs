//! Credentials from an ACME CA: a file like any other, which is ordered anew when it is due.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};

use super::{
    credentials::Credentials,
    files::FileProvider,
    provider::{CredentialProvider, Update},
};
use crate::credentials::acme::{AcmeConfig, Challenge, Renewal, ServePort};

/// What was ordered, and who orders it.
pub(super) struct AcmeProvider {
    files: FileProvider,
    renewal: Renewal,
}

impl AcmeProvider {
    /// `files` read what was ordered by this configuration.
    pub(super) fn new(files: FileProvider, config: AcmeConfig) -> Self {
        Self { files, renewal: Renewal::of(config) }
    }
}

impl CredentialProvider for AcmeProvider {
    fn reload(&self) -> BoxFuture<'_, Option<Result<Credentials, String>>> {
        self.files.reload()
    }

    fn follow<'a>(
        &'a self,
        port: ServePort,
        tell: &'a (dyn Fn(Update) + Send + Sync),
    ) -> BoxFuture<'a, ()> {
        async move {
            let renewed = self.renewal.follow(port, |why| tell(Update::Failed(why)));
            tokio::join!(self.files.follow(port, tell), renewed);
        }
        .boxed()
    }

    fn challenge(&self) -> Option<Arc<Challenge>> {
        self.renewal.pending.load_full()
    }
}
