//! What the configuration says of istiod.

use std::{path::PathBuf, time::Duration};

use crate::credentials::dial::Server;

/// Where istiod is, and what is shown to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IstiodConfig {
    /// As written, for messages.
    pub address: String,
    /// Where and who it is.
    pub server: Server,
    /// The file with the bearer token; read for each call.
    pub token: PathBuf,
    /// What its certificate is checked against, PEM; read for each connection.
    pub roots: PathBuf,
    /// Which cluster this is.
    pub cluster_id: Option<String>,
    /// What lifetime is asked for.
    pub svid_lifetime: Duration,
}
