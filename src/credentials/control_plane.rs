//! A server of the control plane, istiod or whoever stands for it: where it is, what proves that it
//! is the one that is meant, and what it is shown.

use std::{io, sync::Arc};

use pki_types::ServerName;
use rustls::sign::CertifiedKey;
use tokio_rustls::client::TlsStream;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};

use super::{
    AuthToken,
    dial::{self, Roots, Server},
    transport::ByteStream,
};

/// Where it is, and what is shown to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ControlPlane {
    /// As written, for messages.
    pub address: String,
    /// Where and who it is.
    pub server: Server,
    /// A name that its certificate may have instead.
    pub alternative_name: Option<ServerName<'static>>,
    /// What its certificate is checked against.
    pub roots: Roots,
    /// The bearer token; `None` where none is wanted.
    pub token: Option<AuthToken>,
    /// Which cluster this is, for the header `clusterid`.
    pub cluster_id: Option<String>,
    /// Headers of each call, beside these.
    pub headers: Vec<Header>,
}

/// Metadata of calls; a value may be a secret and is never printed.
pub type Header = (MetadataKey<Ascii>, MetadataValue<Ascii>);

impl ControlPlane {
    /// Connects for gRPC, and shows `own` if there is one. A certificate that has not the one name
    /// may have the other.
    ///
    /// # Errors
    /// The roots, the connection or the handshake; the text names neither host nor port.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(crate) async fn dial(
        &self,
        own: Option<Arc<CertifiedKey>>,
    ) -> io::Result<TlsStream<ByteStream>> {
        let first = dial::dial(&self.server, &self.roots, b"h2", own.clone()).await;
        match (first, &self.alternative_name) {
            (Err(error), Some(name)) if error.kind() == io::ErrorKind::InvalidData => {
                let server = Server { name: name.clone(), ..self.server.clone() };
                let second = dial::dial(&server, &self.roots, b"h2", own).await;
                second.map_err(|_| error)
            }
            (first, _) => first,
        }
    }

    /// The bearer token as a header, as it is now.
    ///
    /// # Errors
    /// Says what is wrong with it, and nothing of what is in it.
    pub(crate) fn bearer(&self) -> Result<Option<MetadataValue<Ascii>>, String> {
        self.token.as_ref().map(AuthToken::bearer).transpose()
    }

    /// Adds what each call has but the token.
    ///
    /// # Errors
    /// A cluster that is not ASCII.
    pub(crate) fn add_headers(&self, to: &mut MetadataMap) -> Result<(), String> {
        if let Some(cluster) = &self.cluster_id {
            to.insert("clusterid", cluster.parse().map_err(|_| "clusterid: not ASCII")?);
        }
        for (name, value) in &self.headers {
            to.insert(name.clone(), value.clone());
        }
        Ok(())
    }
}
