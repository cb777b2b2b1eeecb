//! Who gives the credentials of a service: one kind for each place that they come from.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::credentials::Credentials;
use crate::credentials::acme::{Challenge, ServePort};

/// What a provider has to tell.
pub(super) enum Update {
    /// Something newer, whole.
    Given(Arc<Credentials>),
    /// What is on disk is not used, and why.
    Refused(String),
    /// Nothing newer, and why.
    Failed(String),
    /// What was given may not be used any more, and why.
    TakenBack(String),
}

/// Gives the credentials of one service.
pub(super) trait CredentialProvider: Send + Sync {
    /// Looks again, because somebody asked for it; `None` if it tells what is new by itself.
    fn reload(&self) -> BoxFuture<'_, Option<Result<Credentials, String>>>;

    /// Tells what is new. Challenges that have a port of their own are answered by `port`. Never
    /// returns.
    fn follow<'a>(
        &'a self,
        port: ServePort,
        tell: &'a (dyn Fn(Update) + Send + Sync),
    ) -> BoxFuture<'a, ()>;

    /// The ACME challenge that is expected now.
    fn challenge(&self) -> Option<Arc<Challenge>> {
        None
    }
}
