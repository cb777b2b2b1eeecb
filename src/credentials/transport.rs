//! How a server is reached, below TLS: by TCP to its host and port, unless whoever made its
//! configuration has another way to it.

use std::{fmt, io, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::lifecycle::dial;

/// What bytes go over, in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection of whatever kind.
pub type ByteStream = Box<dyn Duplex>;

type Connect = dyn Fn(&str, u16) -> BoxFuture<'static, io::Result<ByteStream>> + Send + Sync;

/// Connects to a host and a port.
#[derive(Clone, Default)]
pub enum Transport {
    /// By TCP, to the first address of the host that answers.
    #[default]
    Tcp,
    /// By another way: a socket that is open already, a proxy, a pipe within this process.
    Other(Arc<Connect>),
}

impl Transport {
    /// Connects.
    ///
    /// # Errors
    /// What is between here and the server.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(super) async fn connect(&self, host: &str, port: u16) -> io::Result<ByteStream> {
        match self {
            Self::Tcp => {
                let tcp = dial::connect(host, port).await?;
                tcp.set_nodelay(true)?;
                Ok(Box::new(tcp))
            }
            Self::Other(connect) => connect(host, port).await,
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "Tcp",
            Self::Other(_) => "Other",
        })
    }
}

/// Two other ways are the same where they are one value.
impl PartialEq for Transport {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp, Self::Tcp) => true,
            (Self::Other(one), Self::Other(other)) => Arc::ptr_eq(one, other),
            (Self::Tcp, Self::Other(_)) | (Self::Other(_), Self::Tcp) => false,
        }
    }
}

impl Eq for Transport {}
